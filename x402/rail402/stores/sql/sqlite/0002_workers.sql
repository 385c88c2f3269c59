-- What workers share besides charges: who leads them, and how much they let through.

-- `lapses_at` in Unix seconds.
CREATE TABLE leases (
    name      TEXT NOT NULL PRIMARY KEY,
    holder    TEXT NOT NULL,
    lapses_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX leases_by_lapse ON leases (lapses_at);

-- `full_at` in Unix nanoseconds. A bucket that is not here is full.
CREATE TABLE buckets (
    name    TEXT NOT NULL PRIMARY KEY,
    full_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX buckets_by_refill ON buckets (full_at);
