-- The ledger of the Stripe sandbox. One file, shared by every process that opens it.

-- API objects as the JSON documents they are; keys that start with an underscore never leave the sandbox.
CREATE TABLE objects (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT    NOT NULL UNIQUE,
    kind     TEXT    NOT NULL,
    parent   TEXT,                          -- a refund's PaymentIntent
    created  INTEGER NOT NULL,
    document TEXT    NOT NULL
);
CREATE INDEX objects_by_kind ON objects (kind, seq);
CREATE INDEX objects_by_parent ON objects (parent, seq);

-- The money, append-only: a charge adds, a refund subtracts. The balance is their sum.
CREATE TABLE entries (
    id           TEXT    PRIMARY KEY,
    source       TEXT    NOT NULL UNIQUE,   -- the charge or refund: each moves money once
    currency     TEXT    NOT NULL,
    amount       INTEGER NOT NULL CHECK (amount <> 0),
    available_on INTEGER NOT NULL
);

CREATE TABLE idempotency (
    key        TEXT    PRIMARY KEY,
    path       TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    request_id TEXT    NOT NULL,
    claimed_at INTEGER NOT NULL,
    status     INTEGER,                     -- NULL while the first request is in flight
    body       TEXT
);

-- Faults that tests order: what the next matching requests get instead of their answer.
CREATE TABLE faults (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    method    TEXT    NOT NULL,
    path      TEXT    NOT NULL,
    answer    TEXT    NOT NULL,
    applied   INTEGER NOT NULL,
    remaining INTEGER NOT NULL
);
