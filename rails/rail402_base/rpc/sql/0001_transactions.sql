-- What a relayer signed, written before it is broadcast. Times are Unix seconds.

-- `state`: `live`: it may be in a node's pool, or on its way into a block. `mined`: a block holds it, whether it
-- succeeded or reverted. `refused`: every node refused it, so its nonce is free again. `replaced`: another transaction
-- has its nonce, or was sent to take it. One without a `token` moves nothing and only fills a gap in the nonces.
CREATE TABLE transactions (
    hash                TEXT NOT NULL PRIMARY KEY,
    chain_id            INTEGER NOT NULL,
    relayer             TEXT NOT NULL,
    nonce               INTEGER NOT NULL,
    raw                 BLOB NOT NULL,
    token               TEXT,
    authorizer          TEXT,
    authorization_nonce BLOB,
    valid_before        TEXT,
    state               TEXT NOT NULL CHECK (state IN ('live', 'mined', 'refused', 'replaced')),
    -- Whether somebody else than who stored it may have broadcast it: then nobody can say that no node has it.
    shared              INTEGER NOT NULL DEFAULT 0,
    created_at          INTEGER NOT NULL
);

CREATE INDEX transactions_by_nonce ON transactions (chain_id, relayer, nonce, state);
CREATE INDEX transactions_by_authorization ON transactions (chain_id, token, authorizer, authorization_nonce);

-- Of any number of workers, one gets a nonce, and one hands an authorization in.
CREATE UNIQUE INDEX live_nonces ON transactions (chain_id, relayer, nonce) WHERE state = 'live';
CREATE UNIQUE INDEX live_authorizations
    ON transactions (chain_id, relayer, token, authorizer, authorization_nonce) WHERE state = 'live';
