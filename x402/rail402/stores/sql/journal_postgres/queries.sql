-- What the journal asks of a PostgreSQL alone, by name. Its other queries are in `../journal`.

-- name: lock
-- Until the transaction ends; two schemas of one database do not wait for each other.
SELECT pg_advisory_xact_lock(hashtext('rail402_journal'), hashtext(current_schema() || ' ' || %(name)s));

-- name: now
SELECT CAST(floor(extract(epoch FROM clock_timestamp())) AS bigint);
