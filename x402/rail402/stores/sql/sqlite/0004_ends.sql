-- Pruning finds what has had its day, however much has to stay.

-- Only finished charges are in it, by the last time at which they mattered to anybody.
CREATE INDEX charges_by_end ON charges (max(created_at, lease_until, coalesce(valid_until, 0))) WHERE NOT is_open;
