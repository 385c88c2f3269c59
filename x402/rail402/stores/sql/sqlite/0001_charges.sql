-- Charges, what they hold, and what was answered. Times are Unix seconds.

-- `charge` is the whole record as JSON; the other columns repeat what queries need and always agree with it.
CREATE TABLE charges (
    id          TEXT NOT NULL PRIMARY KEY,
    version     INTEGER NOT NULL,
    payment     TEXT NOT NULL,
    delivery    TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    valid_until INTEGER,
    uses        INTEGER NOT NULL,
    uses_taken  INTEGER NOT NULL,
    charge      TEXT NOT NULL,
    -- Not finished: somebody, at last the reconciler, still has to act on it. Such a row is never pruned.
    is_open     INTEGER NOT NULL GENERATED ALWAYS AS (
        delivery = 'running'
        OR payment IN ('claimed', 'holding', 'held', 'settling', 'releasing', 'refunding', 'unknown')
    ) VIRTUAL
);

CREATE INDEX charges_by_age ON charges (created_at, id);

-- Only open charges are in it, so it stays small however many are finished.
CREATE INDEX charges_by_lease ON charges (lease_until, id) WHERE is_open;

-- The primary key is what makes a payment count once.
CREATE TABLE consumption_keys (
    key       TEXT NOT NULL PRIMARY KEY,
    charge_id TEXT NOT NULL REFERENCES charges (id) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX consumption_keys_by_charge ON consumption_keys (charge_id);

-- `fields` is a JSON array of [name, value] pairs, each byte as the character of its number (ISO 8859-1).
CREATE TABLE responses (
    charge_id TEXT NOT NULL REFERENCES charges (id) ON DELETE CASCADE,
    slot      TEXT NOT NULL,
    status    INTEGER NOT NULL,
    fields    TEXT NOT NULL,
    body      BLOB NOT NULL,
    PRIMARY KEY (charge_id, slot)
);

CREATE TABLE issued (
    key          TEXT NOT NULL PRIMARY KEY,
    order_digest TEXT NOT NULL,
    offer        TEXT NOT NULL,
    expires_at   INTEGER NOT NULL
);

CREATE INDEX issued_by_expiry ON issued (expires_at);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
