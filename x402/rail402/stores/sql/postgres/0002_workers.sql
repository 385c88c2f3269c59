-- What workers share besides charges: who leads them, and how much they let through.

-- `lapses_at` in Unix seconds.
CREATE TABLE rail402_leases (
    name      text COLLATE "C" NOT NULL PRIMARY KEY,
    holder    text NOT NULL,
    lapses_at bigint NOT NULL
);

-- `full_at` in Unix nanoseconds; a bucket that is not here is full. `taken` is what the last taker got. No other index,
-- and room in every page: a row that is written often stays where it is.
CREATE TABLE rail402_buckets (
    name    text COLLATE "C" NOT NULL PRIMARY KEY,
    full_at bigint NOT NULL,
    taken   bigint NOT NULL
) WITH (fillfactor = 50);
