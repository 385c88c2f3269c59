-- An agent's purchases, what they count in its budget, and the keys of those who sign receipts. Times are Unix seconds.

-- `purchase` is the whole record as JSON, its proof included; the other columns repeat what queries need.
CREATE TABLE purchases (
    id           TEXT NOT NULL PRIMARY KEY,
    version      INTEGER NOT NULL,
    order_digest TEXT NOT NULL,
    state        TEXT NOT NULL,
    lease_until  INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    purchase     TEXT NOT NULL,
    is_open      INTEGER NOT NULL GENERATED ALWAYS AS (state IN ('reserved', 'presented', 'unknown')) VIRTUAL
);

CREATE INDEX purchases_by_age ON purchases (created_at, id);

-- Only what is not resolved is in it.
CREATE INDEX open_purchases ON purchases (order_digest, created_at, id) WHERE is_open;

-- One row per purchase and window. `amount` is in 10^-11 of the currency; `is_open` rows count whatever their age.
CREATE TABLE spending (
    purchase_id TEXT NOT NULL REFERENCES purchases (id) ON DELETE CASCADE,
    period      TEXT NOT NULL,
    currency    TEXT NOT NULL,
    amount      INTEGER NOT NULL,
    spent_at    INTEGER NOT NULL,
    is_open     INTEGER NOT NULL,
    PRIMARY KEY (purchase_id, period)
) WITHOUT ROWID;

CREATE INDEX spending_by_time ON spending (period, currency, spent_at, is_open, amount);
CREATE INDEX open_spending ON spending (period, currency, amount) WHERE is_open;

-- Public Ed25519 keys, by the origin that signs with them; `x` is the key itself (RFC 8037).
CREATE TABLE issuer_keys (
    origin    TEXT NOT NULL,
    x         TEXT NOT NULL,
    kid       TEXT NOT NULL,
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (origin, x)
) WITHOUT ROWID;
