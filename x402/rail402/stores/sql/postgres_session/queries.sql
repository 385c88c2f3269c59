-- What every part of rail402 asks a PostgreSQL before its own queries.

-- name: configure
-- Of each new connection, whatever the role's or the database's defaults are. All that is asked is found by an index:
-- a plan that was made while a table was small, and is kept, must use it too.
SELECT set_config('default_transaction_isolation', 'read committed', false),
       set_config('statement_timeout', %(milliseconds)s, false),
       set_config('idle_in_transaction_session_timeout', %(milliseconds)s, false),
       set_config('enable_seqscan', 'off', false),
       set_config('jit', 'off', false),
       set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false);

-- name: take_time
-- Until the transaction ends: a table takes the longer to change the larger it is, and the others wait as long for that.
SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true);

-- name: lock_schema
-- Of many processes that start, one changes the schema; until the transaction ends.
SELECT pg_advisory_xact_lock(hashtext('rail402_schema'), hashtext(current_schema()));

-- name: wait_briefly
-- For a table that somebody is using: whoever wants it meanwhile has to wait behind us.
SELECT set_config('lock_timeout', %(milliseconds)s, true);

-- name: surroundings
SELECT current_schema(), current_setting('server_encoding'), to_regclass('rail402_schema') IS NOT NULL;

-- name: make_versions
CREATE TABLE IF NOT EXISTS rail402_schema (part text NOT NULL PRIMARY KEY, version integer NOT NULL);

-- name: get_version
SELECT version FROM rail402_schema WHERE part = %(part)s;

-- name: put_version
INSERT INTO rail402_schema (part, version) VALUES (%(part)s, %(version)s)
ON CONFLICT (part) DO UPDATE SET version = excluded.version;

-- name: transaction
-- The number of this transaction, by which the server knows it after its connection is gone.
SELECT pg_current_xact_id()::text;

-- name: outcome
-- `committed` or `aborted`; the number of one that is too old to be known is an error, or no value.
SELECT pg_xact_status(CAST(%(transaction)s AS xid8));
