-- The uses of a pass that are under way: one whose worker is gone comes back.

CREATE TABLE uses (
    charge_id   TEXT NOT NULL REFERENCES charges (id) ON DELETE CASCADE,
    use         TEXT NOT NULL,
    slot        TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    PRIMARY KEY (charge_id, use)
) WITHOUT ROWID;
