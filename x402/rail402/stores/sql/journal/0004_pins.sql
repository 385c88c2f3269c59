-- Who was paid at an origin, and what a resource cost there when it was first bought.
CREATE TABLE pinned_payees (
    origin    TEXT NOT NULL,
    rail      TEXT NOT NULL,
    network   TEXT NOT NULL,
    payee     TEXT NOT NULL,
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (origin, rail, network, payee)
) WITHOUT ROWID;

-- `path` is without a query; `amount` is in 10^-11 of the currency.
CREATE TABLE pinned_prices (
    origin    TEXT NOT NULL,
    method    TEXT NOT NULL,
    path      TEXT NOT NULL,
    currency  TEXT NOT NULL,
    amount    INTEGER NOT NULL,
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (origin, method, path, currency)
) WITHOUT ROWID;
