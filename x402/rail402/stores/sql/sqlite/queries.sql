-- What the SQLite store asks, by name. Sets of keys arrive as one JSON array.

-- name: find_charge
-- The oldest, should the keys belong to several.
SELECT c.charge
  FROM consumption_keys AS k
  JOIN charges AS c ON c.id = k.charge_id
 WHERE k.key IN (SELECT value FROM json_each(:keys))
 ORDER BY c.created_at, c.id
 LIMIT 1;

-- name: get_charge
SELECT charge FROM charges WHERE id = :id;

-- name: insert_charge
INSERT INTO charges (id, version, payment, delivery, lease_until, created_at, valid_until, uses, uses_taken, charge)
VALUES (:id, :version, :payment, :delivery, :lease_until, :created_at, :valid_until, :uses, :uses_taken, :charge);

-- name: update_charge
-- `version` is the next one; a row that has moved on is not touched. The uses taken are not the caller's to write.
UPDATE charges
   SET version = :version,
       payment = :payment,
       delivery = :delivery,
       lease_until = :lease_until,
       valid_until = :valid_until,
       uses = :uses,
       charge = json_set(:charge, '$.uses_taken', uses_taken)
 WHERE id = :id AND version = :version - 1;

-- name: taken_key
SELECT key
  FROM consumption_keys
 WHERE key IN (SELECT value FROM json_each(:keys)) AND charge_id <> :id
 LIMIT 1;

-- name: insert_keys
-- `WHERE true` keeps the parser from reading ON CONFLICT as a join condition.
INSERT INTO consumption_keys (key, charge_id)
SELECT value, :id FROM json_each(:keys) WHERE true
ON CONFLICT (key) DO NOTHING;

-- name: get_response
SELECT status, fields, body FROM responses WHERE charge_id = :id AND slot = :slot;

-- name: put_response
INSERT INTO responses (charge_id, slot, status, fields, body)
VALUES (:id, :slot, :status, :fields, :body)
ON CONFLICT (charge_id, slot) DO UPDATE
   SET status = excluded.status, fields = excluded.fields, body = excluded.body;

-- name: keep_response
INSERT INTO responses (charge_id, slot, status, fields, body)
SELECT id, :slot, :status, :fields, :body FROM charges WHERE id = :id
ON CONFLICT (charge_id, slot) DO NOTHING;

-- name: unresolved_charges
-- Lists of charges have no LIMIT: who reads them stops when there are enough.
SELECT id, charge
  FROM charges
 WHERE is_open
   AND lease_until <= :now
   AND (:rails IS NULL OR json_extract(charge, '$.offer.rail') IN (SELECT value FROM json_each(:rails)))
   AND (:origin IS NULL OR substr(json_extract(charge, '$.order.url'), 1, length(:origin) + 1) = :origin || '/')
 ORDER BY lease_until, id;

-- name: recent_charges
SELECT id, charge FROM charges ORDER BY created_at DESC, id DESC;

-- name: recent_charges_before
SELECT id, charge
  FROM charges
 WHERE (created_at, id) < (SELECT created_at, id FROM charges WHERE id = :before)
 ORDER BY created_at DESC, id DESC;

-- name: take_use
-- The version stays: who delivers one use is not disturbed by the others.
UPDATE charges
   SET uses_taken = uses_taken + 1,
       charge = json_set(charge, '$.uses_taken', uses_taken + 1)
 WHERE id = :id AND payment = 'settled' AND uses_taken < uses;

-- name: return_uses
UPDATE charges
   SET uses_taken = uses_taken - :returned,
       charge = json_set(charge, '$.uses_taken', uses_taken - :returned)
 WHERE id = :id;

-- name: insert_use
INSERT INTO uses (charge_id, use, slot, lease_until) VALUES (:id, :use, :slot, :lease_until);

-- name: get_use
SELECT slot FROM uses WHERE charge_id = :id AND use = :use;

-- name: use_of_slot
-- Under way, or served and kept.
SELECT slot FROM uses WHERE charge_id = :id AND slot = :slot
UNION ALL
SELECT slot FROM responses WHERE charge_id = :id AND slot = :slot;

-- name: renew_use
UPDATE uses SET lease_until = :lease_until WHERE charge_id = :id AND use = :use;

-- name: end_use
DELETE FROM uses WHERE charge_id = :id AND use = :use;

-- name: end_lapsed_uses
DELETE FROM uses WHERE charge_id = :id AND lease_until <= :now;

-- name: get_issued
SELECT key, order_digest, offer, expires_at FROM issued WHERE key = :key;

-- name: issued_is_full
-- Stops counting at the capacity.
SELECT count(*) >= :capacity FROM (SELECT 1 FROM issued WHERE expires_at > :now LIMIT :capacity);

-- name: insert_issued
INSERT INTO issued (key, order_digest, offer, expires_at) VALUES (:key, :order_digest, :offer, :expires_at);

-- name: lead
INSERT INTO leases (name, holder, lapses_at) VALUES (:name, :holder, :lapses_at)
ON CONFLICT (name) DO UPDATE
   SET holder = excluded.holder, lapses_at = excluded.lapses_at
 WHERE leases.holder = excluded.holder OR leases.lapses_at <= :now;

-- name: get_bucket
SELECT full_at FROM buckets WHERE name = :name;

-- name: put_bucket
INSERT INTO buckets (name, full_at) VALUES (:name, :full_at)
ON CONFLICT (name) DO UPDATE SET full_at = excluded.full_at;

-- name: set_default
INSERT INTO settings (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: get_setting
SELECT value FROM settings WHERE name = :name;

-- name: prune_charges
-- Keys and responses go with their charge.
DELETE FROM charges
 WHERE id IN (
    SELECT id
      FROM charges
     WHERE NOT is_open AND max(created_at, lease_until, coalesce(valid_until, 0)) < :before
     ORDER BY max(created_at, lease_until, coalesce(valid_until, 0))
     LIMIT :limit
 );

-- name: prune_issued
DELETE FROM issued WHERE key IN (SELECT key FROM issued WHERE expires_at <= :expired LIMIT :limit);

-- name: prune_leases
DELETE FROM leases WHERE name IN (SELECT name FROM leases WHERE lapses_at <= :now LIMIT :limit);

-- name: prune_buckets
DELETE FROM buckets WHERE name IN (SELECT name FROM buckets WHERE full_at <= :now_ns LIMIT :limit);
