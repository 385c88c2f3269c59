-- What a relayer signed, written before it is broadcast. Times are Unix seconds.

-- Whoever allocates a nonce holds the row of its account: of any number of machines one does so at a time. `floor` is
-- what is left of transactions that are forgotten: the lowest nonce that no block can hold yet.
CREATE TABLE rail402_relayer_accounts (
    chain_id bigint NOT NULL,
    relayer  text NOT NULL,
    floor    bigint NOT NULL,
    PRIMARY KEY (chain_id, relayer)
);

-- `state`: `live`: it may be in a node's pool, or on its way into a block. `mined`: a block holds it, whether it
-- succeeded or reverted. `refused`: every node refused it, so its nonce is free again. `replaced`: another transaction
-- has its nonce, or was sent to take it. One without a `token` moves nothing and only fills a gap in the nonces.
CREATE TABLE rail402_relayer_transactions (
    hash                text NOT NULL PRIMARY KEY,
    chain_id            bigint NOT NULL,
    relayer             text NOT NULL,
    nonce               bigint NOT NULL,
    raw                 bytea NOT NULL,
    token               text,
    authorizer          text,
    authorization_nonce bytea,
    valid_before        text,
    state               text NOT NULL CHECK (state IN ('live', 'mined', 'refused', 'replaced')),
    -- Whether somebody else than who stored it may have broadcast it: then nobody can say that no node has it.
    shared              boolean NOT NULL DEFAULT false,
    created_at          bigint NOT NULL
);

CREATE INDEX rail402_relayer_transactions_by_nonce
    ON rail402_relayer_transactions (chain_id, relayer, nonce, state);
CREATE INDEX rail402_relayer_transactions_by_authorization
    ON rail402_relayer_transactions (chain_id, token, authorizer, authorization_nonce);
CREATE INDEX rail402_relayer_transactions_by_age
    ON rail402_relayer_transactions (chain_id, relayer, created_at) WHERE state <> 'live';

-- Of any number of workers, one gets a nonce, and one hands an authorization in.
CREATE UNIQUE INDEX rail402_relayer_live_nonces
    ON rail402_relayer_transactions (chain_id, relayer, nonce) WHERE state = 'live';
CREATE UNIQUE INDEX rail402_relayer_live_authorizations
    ON rail402_relayer_transactions (chain_id, relayer, token, authorizer, authorization_nonce) WHERE state = 'live';
