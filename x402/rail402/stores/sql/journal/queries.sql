-- What the journal asks, by name.

-- name: insert_purchase
INSERT INTO purchases (id, version, order_digest, state, lease_until, created_at, purchase)
VALUES (:id, :version, :order_digest, :state, :lease_until, :created_at, :purchase);

-- name: update_purchase
-- `version` is the next one; a row that has moved on, or is resolved, is not touched.
UPDATE purchases
   SET version = :version, state = :state, lease_until = :lease_until, purchase = :purchase
 WHERE id = :id AND version = :version - 1 AND is_open;

-- name: reopen_purchase
UPDATE purchases
   SET version = :version, state = :state, lease_until = :lease_until, purchase = :purchase
 WHERE id = :id AND version = :version - 1;

-- name: get_purchase
SELECT purchase FROM purchases WHERE id = :id;

-- name: open_for_order
SELECT purchase FROM purchases WHERE is_open AND order_digest = :order_digest ORDER BY created_at, id;

-- name: unresolved
SELECT purchase FROM purchases WHERE is_open ORDER BY created_at, id;

-- name: newest
SELECT purchase
  FROM purchases
 WHERE :before IS NULL OR (created_at, id) < (SELECT created_at, id FROM purchases WHERE id = :before)
 ORDER BY created_at DESC, id DESC
 LIMIT :limit;

-- name: insert_spending
INSERT INTO spending (purchase_id, period, currency, amount, spent_at, is_open)
VALUES (:id, :period, :currency, :amount, :now, 1);

-- name: window
-- What one window holds: all of it, and what is not resolved.
SELECT coalesce(sum(amount), 0), coalesce(sum(amount) FILTER (WHERE is_open), 0)
  FROM spending
 WHERE period = :period AND currency = :currency AND (is_open OR spent_at > :since);

-- name: window_currencies
SELECT DISTINCT currency FROM spending WHERE period = :period AND (is_open OR spent_at > :since) ORDER BY currency;

-- name: spending_of
SELECT period, amount FROM spending WHERE purchase_id = :id AND is_open;

-- name: close_spending
UPDATE spending SET amount = :amount, spent_at = :now, is_open = 0 WHERE purchase_id = :id AND period = :period;

-- name: delete_spending
DELETE FROM spending WHERE purchase_id = :id;

-- name: pinned_keys
SELECT x, kid FROM issuer_keys WHERE origin = :origin ORDER BY pinned_at, x;

-- name: pin_key
INSERT INTO issuer_keys (origin, x, kid, pinned_at) VALUES (:origin, :x, :kid, :now) ON CONFLICT (origin, x) DO NOTHING;

-- name: forget_keys
DELETE FROM issuer_keys WHERE origin = :origin;
