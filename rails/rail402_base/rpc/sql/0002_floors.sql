-- What is left of transactions that are forgotten: the lowest nonce that no block can hold yet. A worker whose count of
-- the chain is old must not hand out one that is below.
CREATE TABLE floors (
    chain_id INTEGER NOT NULL,
    relayer  TEXT NOT NULL,
    floor    INTEGER NOT NULL,
    PRIMARY KEY (chain_id, relayer)
) WITHOUT ROWID;

CREATE INDEX transactions_by_age ON transactions (chain_id, relayer, created_at) WHERE state <> 'live';
