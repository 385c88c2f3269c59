-- What the PostgreSQL store asks, by name. Each is atomic by itself at READ COMMITTED, in a transaction of its own.
-- A connection keeps the plan of a statement that it made while the tables were small, so charges are looked up in the
-- one way that stays fast as they grow: key by key, then charge by charge.

-- name: claim
-- The charge that holds a key, or nothing where this one was inserted. Keys go in sorted, so that two claims wait for
-- each other in one order only; one that comes in between violates the primary key, and nothing of this is done.
WITH holder AS (
    SELECT c.charge, c.uses_taken
      FROM (SELECT unnest(%(keys)s::text[]) COLLATE "C" AS key) AS wanted
     CROSS JOIN LATERAL (SELECT charge_id FROM rail402_consumption_keys WHERE key = wanted.key LIMIT 1) AS k
     CROSS JOIN LATERAL (SELECT * FROM rail402_charges WHERE id = k.charge_id LIMIT 1) AS c
     ORDER BY c.created_at, c.id
     LIMIT 1
), inserted AS (
    INSERT INTO rail402_charges
        (id, version, payment, delivery, lease_until, created_at, valid_until, uses, uses_taken, charge, written_by)
    SELECT %(id)s, %(version)s, %(payment)s, %(delivery)s, %(lease_until)s, %(created_at)s, %(valid_until)s, %(uses)s,
           %(uses_taken)s, %(charge)s, %(written_by)s
     WHERE NOT EXISTS (SELECT FROM holder)
    RETURNING id
), held AS (
    INSERT INTO rail402_consumption_keys (key, charge_id)
    SELECT wanted.key, inserted.id
      FROM inserted, (SELECT DISTINCT unnest(%(keys)s::text[]) COLLATE "C" AS key) AS wanted
     ORDER BY wanted.key
)
SELECT charge, uses_taken FROM holder;

-- name: find_charge
-- The oldest, should the keys belong to several.
SELECT c.charge, c.uses_taken
  FROM (SELECT unnest(%(keys)s::text[]) COLLATE "C" AS key) AS wanted
 CROSS JOIN LATERAL (SELECT charge_id FROM rail402_consumption_keys WHERE key = wanted.key LIMIT 1) AS k
 CROSS JOIN LATERAL (SELECT * FROM rail402_charges WHERE id = k.charge_id LIMIT 1) AS c
 ORDER BY c.created_at, c.id
 LIMIT 1;

-- name: get_charge
SELECT charge, uses_taken FROM rail402_charges WHERE id = %(id)s;

-- name: save
-- `version` is the next one; a row that has moved on is not touched, and then nothing else is. The uses taken are not
-- the caller's to write. A key that another charge holds violates the primary key, and nothing of this is done.
WITH saved AS (
    UPDATE rail402_charges
       SET version = %(version)s,
           payment = %(payment)s,
           delivery = %(delivery)s,
           lease_until = %(lease_until)s,
           valid_until = %(valid_until)s,
           uses = %(uses)s,
           charge = %(charge)s,
           written_by = %(written_by)s
     WHERE id = %(id)s AND version = %(version)s - 1
    RETURNING id, uses_taken
), gained AS (
    INSERT INTO rail402_consumption_keys (key, charge_id)
    SELECT wanted.key, saved.id
      FROM saved, (SELECT DISTINCT unnest(%(keys)s::text[]) COLLATE "C" AS key) AS wanted
     WHERE NOT EXISTS (
        SELECT FROM rail402_consumption_keys AS k WHERE k.key = wanted.key AND k.charge_id = %(id)s
     )
     ORDER BY wanted.key
), stored AS (
    INSERT INTO rail402_responses (charge_id, slot, status, fields, body)
    SELECT saved.id, %(slot)s, %(status)s, %(fields)s, %(body)s FROM saved WHERE %(status)s::integer IS NOT NULL
    ON CONFLICT (charge_id, slot) DO UPDATE
       SET status = excluded.status, fields = excluded.fields, body = excluded.body
)
SELECT uses_taken FROM saved;

-- name: written
-- What this very write left behind.
SELECT uses_taken FROM rail402_charges WHERE id = %(id)s AND written_by = %(written_by)s;

-- name: get_response
SELECT status, fields, body FROM rail402_responses WHERE charge_id = %(id)s AND slot = %(slot)s;

-- name: unresolved_charges
-- Lists of charges have no LIMIT: who reads them, with a cursor, stops when there are enough.
-- PostgreSQL refuses to read a member of JSON that has the character 0 anywhere; what it is made here is never read.
SELECT id, charge, uses_taken
  FROM rail402_charges
 WHERE is_open
   AND lease_until <= %(now)s
   AND (
        %(rails)s::text[] IS NULL
        OR replace(charge, '\u0000', '\u0001')::json #>> '{offer,rail}' = ANY (%(rails)s::text[])
   )
   AND (
        %(origin)s::text IS NULL
        OR starts_with(replace(charge, '\u0000', '\u0001')::json #>> '{order,url}', %(origin)s::text || '/')
   )
 ORDER BY lease_until, id;

-- name: recent_charges
SELECT id, charge, uses_taken FROM rail402_charges ORDER BY created_at DESC, id DESC;

-- name: recent_charges_before
SELECT id, charge, uses_taken
  FROM rail402_charges
 WHERE (created_at, id) < (SELECT created_at, id FROM rail402_charges WHERE id = %(before)s)
 ORDER BY created_at DESC, id DESC;

-- name: lock_pass
-- Until the transaction ends; its keys and responses may be written meanwhile.
SELECT FROM rail402_charges WHERE id = %(id)s FOR NO KEY UPDATE;

-- name: return_lapsed_uses
WITH lapsed AS (
    DELETE FROM rail402_uses WHERE charge_id = %(id)s AND lease_until <= %(now)s RETURNING use
)
UPDATE rail402_charges
   SET uses_taken = uses_taken - (SELECT count(*) FROM lapsed)
 WHERE id = %(id)s AND EXISTS (SELECT FROM lapsed);

-- name: take_use
-- Where the pass is locked. The version stays: who delivers one use is not disturbed by the others.
WITH same AS (
    SELECT slot FROM rail402_uses WHERE charge_id = %(id)s AND slot = %(slot)s AND slot <> ''
    UNION ALL
    SELECT slot FROM rail402_responses WHERE charge_id = %(id)s AND slot = %(slot)s AND slot <> ''
), taken AS (
    UPDATE rail402_charges
       SET uses_taken = uses_taken + 1
     WHERE id = %(id)s AND payment = 'settled' AND uses_taken < uses AND NOT EXISTS (SELECT FROM same)
    RETURNING id, charge, uses_taken
), under_way AS (
    INSERT INTO rail402_uses (charge_id, use, slot, lease_until)
    SELECT id, %(use)s, %(slot)s, %(lease_until)s FROM taken
)
SELECT taken.charge, taken.uses_taken, EXISTS (SELECT FROM same) FROM (SELECT) AS always LEFT JOIN taken ON true;

-- name: renew_use
UPDATE rail402_uses SET lease_until = %(lease_until)s WHERE charge_id = %(id)s AND use = %(use)s;

-- name: return_use
-- The pass is locked first, as for taking one: two workers wait for each other in one order only.
WITH pass AS (
    SELECT id FROM rail402_charges WHERE id = %(id)s FOR NO KEY UPDATE
), returned AS (
    DELETE FROM rail402_uses AS u USING pass WHERE u.charge_id = pass.id AND u.use = %(use)s RETURNING u.charge_id
)
UPDATE rail402_charges AS c SET uses_taken = c.uses_taken - 1 FROM returned WHERE c.id = returned.charge_id;

-- name: end_use
WITH ended AS (
    DELETE FROM rail402_uses WHERE charge_id = %(id)s AND use = %(use)s RETURNING charge_id, slot
), kept AS (
    INSERT INTO rail402_responses (charge_id, slot, status, fields, body)
    SELECT charge_id, slot, %(status)s, %(fields)s, %(body)s
      FROM ended
     WHERE slot <> '' AND %(status)s::integer IS NOT NULL
    ON CONFLICT (charge_id, slot) DO NOTHING
)
SELECT slot FROM ended;

-- name: lock_issued
-- Until the transaction ends; two schemas of one database do not wait for each other.
SELECT pg_advisory_xact_lock(hashtext('rail402_issued'), hashtext(current_schema()));

-- name: issue
INSERT INTO rail402_issued (key, order_digest, offer, expires_at)
SELECT %(key)s, %(order_digest)s, %(offer)s, %(expires_at)s
 WHERE NOT EXISTS (SELECT FROM rail402_issued WHERE expires_at > %(now)s OFFSET %(capacity)s::bigint - 1)
ON CONFLICT (key) DO NOTHING;

-- name: get_issued
SELECT key, order_digest, offer, expires_at FROM rail402_issued WHERE key = %(key)s;

-- name: lead
INSERT INTO rail402_leases AS leases (name, holder, lapses_at) VALUES (%(name)s, %(holder)s, %(lapses_at)s)
ON CONFLICT (name) DO UPDATE
   SET holder = excluded.holder, lapses_at = excluded.lapses_at
 WHERE leases.holder = excluded.holder OR leases.lapses_at <= %(now)s;

-- name: spend
-- `TokenBucket.take` in one statement. Nothing comes back where there is no token. Committing it waits for no disk: a
-- bucket need not survive a power failure, and a busy one has many who wait for its row.
INSERT INTO rail402_buckets AS bucket (name, full_at, taken)
SELECT %(name)s, %(now_ns)s::bigint + %(tokens)s::bigint * %(token_ns)s::bigint, %(tokens)s::bigint
 WHERE set_config('synchronous_commit', 'off', true) = 'off'
ON CONFLICT (name) DO UPDATE
   SET (full_at, taken) = (
        SELECT greatest(bucket.full_at, %(now_ns)s::bigint) + taking.tokens * %(token_ns)s::bigint, taking.tokens
          FROM (SELECT least(%(tokens)s::bigint, %(burst)s::bigint - missing.tokens) AS tokens
                  FROM (SELECT (greatest(bucket.full_at - %(now_ns)s::bigint, 0) + %(token_ns)s::bigint - 1)
                               / %(token_ns)s::bigint AS tokens) AS missing) AS taking
       )
 WHERE bucket.full_at - %(now_ns)s::bigint <= (%(burst)s::bigint - 1) * %(token_ns)s::bigint
RETURNING taken;

-- name: set_default
INSERT INTO rail402_settings (name, value) VALUES (%(name)s, %(value)s) ON CONFLICT (name) DO NOTHING;

-- name: get_setting
SELECT value FROM rail402_settings WHERE name = %(name)s;

-- name: prune_charges
-- Keys and responses go with their charge. What somebody is writing is left for the next time. (An array, for what is
-- only IN a set might be looked up again and again, and be another set each time.)
DELETE FROM rail402_charges
 WHERE id = ANY (ARRAY(
    SELECT id
      FROM rail402_charges
     WHERE NOT is_open AND greatest(created_at, lease_until, valid_until) < %(before)s
     ORDER BY greatest(created_at, lease_until, valid_until)
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
 ));

-- name: prune_issued
DELETE FROM rail402_issued
 WHERE key = ANY (ARRAY(
    SELECT key FROM rail402_issued WHERE expires_at <= %(expired)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
 ));

-- name: prune_leases
DELETE FROM rail402_leases
 WHERE name = ANY (ARRAY(
    SELECT name FROM rail402_leases WHERE lapses_at <= %(now)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
 ));

-- name: prune_buckets
DELETE FROM rail402_buckets
 WHERE name = ANY (ARRAY(
    SELECT name FROM rail402_buckets WHERE full_at <= %(now_ns)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
 ));

-- name: notify
-- Tells all workers which charges changed. Committing it waits for no disk: to lose it costs one poll.
SELECT set_config('synchronous_commit', 'off', true), pg_notify('rail402_' || md5(current_schema()), %(changed)s);

-- name: channel
SELECT 'rail402_' || md5(current_schema());
