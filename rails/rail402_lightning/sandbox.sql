-- The ledger of a sandbox Lightning node. Amounts are millisatoshis, times unix seconds, hashes and keys raw bytes.
PRAGMA journal_mode = WAL;
PRAGMA application_id = 0x72343032;  -- "r402"
PRAGMA user_version = 1;

CREATE TABLE node (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    private_key BLOB NOT NULL
);

CREATE TABLE invoices (
    payment_hash BLOB PRIMARY KEY,
    preimage     BLOB NOT NULL,
    amount_msat  INTEGER NOT NULL CHECK (amount_msat > 0),
    expires_at   INTEGER NOT NULL,
    state        TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'canceled')),  -- expired: by the clock
    settled_at   INTEGER CHECK ((settled_at IS NULL) = (state <> 'settled'))
) WITHOUT ROWID;

CREATE TABLE wallets (
    name           TEXT PRIMARY KEY,
    endowment_msat INTEGER NOT NULL,
    balance_msat   INTEGER NOT NULL CHECK (balance_msat >= 0)
) WITHOUT ROWID;

-- The latest attempt of a wallet to pay an invoice. While it is pending its money is in flight, in no balance.
CREATE TABLE payments (
    payment_hash BLOB NOT NULL,
    wallet       TEXT NOT NULL REFERENCES wallets (name),
    amount_msat  INTEGER NOT NULL,
    fee_msat     INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'succeeded', 'failed')),
    reason       TEXT CHECK ((reason IS NULL) = (state <> 'failed')),
    behaviour    TEXT,
    settles_at   INTEGER,
    PRIMARY KEY (payment_hash, wallet)
) WITHOUT ROWID;

CREATE UNIQUE INDEX paid_once ON payments (payment_hash) WHERE state <> 'failed';
CREATE INDEX due ON payments (settles_at) WHERE state = 'pending' AND settles_at IS NOT NULL;

-- What the next attempts shall do, first come first served: those for one invoice, and (no hash) for any.
CREATE TABLE scripts (
    id           INTEGER PRIMARY KEY,
    payment_hash BLOB,
    behaviour    TEXT NOT NULL,
    reason       TEXT NOT NULL
);
