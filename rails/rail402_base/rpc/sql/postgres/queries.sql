-- What the relayer's store asks a PostgreSQL, by name.

-- name: add_account
INSERT INTO rail402_relayer_accounts (chain_id, relayer, floor) VALUES (%(chain_id)s, %(relayer)s, 0)
ON CONFLICT (chain_id, relayer) DO NOTHING;

-- name: lock_account
-- Until the transaction ends; and once it is had, every allocation that came before has been stored or never will be.
SELECT floor FROM rail402_relayer_accounts WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s FOR UPDATE;

-- name: next_nonce
-- The lowest one, from the chain's own count on, that no transaction of ours has.
SELECT min(nonce) FROM (
    SELECT %(floor)s::bigint AS nonce
     UNION ALL
    SELECT nonce + 1 FROM rail402_relayer_transactions
     WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s AND nonce >= %(floor)s AND state <> 'refused'
) AS candidates
 WHERE NOT EXISTS (
    SELECT FROM rail402_relayer_transactions AS taken
     WHERE taken.chain_id = %(chain_id)s AND taken.relayer = %(relayer)s
       AND taken.nonce = candidates.nonce AND taken.state <> 'refused'
);

-- name: insert
-- The very same bytes may be stored again after every node refused them.
INSERT INTO rail402_relayer_transactions AS stored
    (hash, chain_id, relayer, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at)
VALUES
    (%(hash)s, %(chain_id)s, %(relayer)s, %(nonce)s, %(raw)s, %(token)s, %(authorizer)s, %(authorization_nonce)s,
     %(valid_before)s, 'live', %(now)s)
ON CONFLICT (hash) DO UPDATE SET state = 'live', shared = false, created_at = %(now)s WHERE stored.state = 'refused';

-- name: finish
UPDATE rail402_relayer_transactions SET state = %(state)s WHERE hash = %(hash)s AND state = 'live';

-- name: share
UPDATE rail402_relayer_transactions SET shared = true WHERE hash = %(hash)s AND state = 'live';

-- name: refuse
-- Only for who stored it, and as long as nobody else has a hand in it.
UPDATE rail402_relayer_transactions SET state = 'refused' WHERE hash = %(hash)s AND state = 'live' AND NOT shared;

-- name: get
SELECT hash, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at
  FROM rail402_relayer_transactions
 WHERE hash = %(hash)s;

-- name: live
SELECT hash, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at
  FROM rail402_relayer_transactions
 WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s AND state = 'live'
 ORDER BY nonce;

-- name: of_authorization
SELECT hash, nonce, raw, token, authorizer, authorization_nonce, valid_before, state, created_at
  FROM rail402_relayer_transactions
 WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s
   AND token = %(token)s AND authorizer = %(authorizer)s AND authorization_nonce = %(authorization_nonce)s
 ORDER BY state = 'live' DESC, created_at DESC, nonce DESC;

-- name: raise_floor
-- One that is mined was preceded by all below it.
UPDATE rail402_relayer_accounts
   SET floor = greatest(floor, (
        SELECT max(nonce) + 1 FROM rail402_relayer_transactions
         WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s AND state = 'mined' AND created_at < %(before)s
       ))
 WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s;

-- name: prune
-- Not those that the chain itself does not remember by their purpose: a transfer has no expiry.
DELETE FROM rail402_relayer_transactions
 WHERE hash = ANY (ARRAY(
    SELECT hash FROM rail402_relayer_transactions
     WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s AND state <> 'live' AND created_at < %(before)s
       AND CASE WHEN token IS NULL THEN true
                WHEN length(valid_before) <= 12 THEN valid_before::bigint < %(before)s
                ELSE false END
       AND (state = 'refused' OR nonce < (
            SELECT floor FROM rail402_relayer_accounts WHERE chain_id = %(chain_id)s AND relayer = %(relayer)s
           ))
     LIMIT %(limit)s
 ));
