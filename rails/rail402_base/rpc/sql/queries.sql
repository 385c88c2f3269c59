-- What the relayer's store asks, by name.

-- name: next_nonce
-- The lowest one, from the chain's own count on, that no transaction of ours has.
SELECT min(nonce) FROM (
    SELECT :floor AS nonce
     UNION ALL
    SELECT nonce + 1 FROM transactions
     WHERE chain_id = :chain_id AND relayer = :relayer AND nonce >= :floor AND state <> 'refused'
) AS candidates
 WHERE NOT EXISTS (
    SELECT 1 FROM transactions
     WHERE chain_id = :chain_id AND relayer = :relayer AND transactions.nonce = candidates.nonce AND state <> 'refused'
);

-- name: insert
-- The very same bytes may be stored again after every node refused them.
INSERT INTO transactions
    (hash, chain_id, relayer, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at)
VALUES
    (:hash, :chain_id, :relayer, :nonce, :raw, :token, :authorizer, :authorization_nonce, :valid_before, 'live', :now)
    ON CONFLICT (hash) DO UPDATE SET state = 'live', shared = 0, created_at = :now WHERE state = 'refused';

-- name: finish
UPDATE transactions SET state = :state WHERE hash = :hash AND state = 'live';

-- name: share
UPDATE transactions SET shared = 1 WHERE hash = :hash AND state = 'live';

-- name: refuse
-- Only for who stored it, and as long as nobody else has a hand in it.
UPDATE transactions SET state = 'refused' WHERE hash = :hash AND state = 'live' AND NOT shared;

-- name: live
SELECT hash, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at FROM transactions
 WHERE chain_id = :chain_id AND relayer = :relayer AND state = 'live'
 ORDER BY nonce;

-- name: of_authorization
SELECT hash, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at FROM transactions
 WHERE chain_id = :chain_id AND relayer = :relayer
   AND token = :token AND authorizer = :authorizer AND authorization_nonce = :authorization_nonce
 ORDER BY state = 'live' DESC, created_at DESC, nonce DESC;

-- name: floor
SELECT floor FROM floors WHERE chain_id = :chain_id AND relayer = :relayer;

-- name: raise_floor
-- One that is mined was preceded by all below it.
INSERT INTO floors (chain_id, relayer, floor)
SELECT chain_id, relayer, max(nonce) + 1 FROM transactions
 WHERE chain_id = :chain_id AND relayer = :relayer AND state = 'mined' AND created_at < :before
 GROUP BY chain_id, relayer
    ON CONFLICT (chain_id, relayer) DO UPDATE SET floor = max(floor, excluded.floor);

-- name: prune
-- Not those that the chain itself does not remember by their purpose: a transfer has no expiry.
DELETE FROM transactions
 WHERE hash IN (
    SELECT hash FROM transactions
     WHERE chain_id = :chain_id AND relayer = :relayer AND state <> 'live' AND created_at < :before
       AND (token IS NULL OR length(valid_before) <= 12 AND CAST(valid_before AS INTEGER) < :before)
       AND (state = 'refused' OR nonce < (SELECT floor FROM floors WHERE chain_id = :chain_id AND relayer = :relayer))
     LIMIT :limit
 );
