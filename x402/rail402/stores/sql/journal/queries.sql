-- What the journal asks, by name, in the SQL that SQLite and PostgreSQL have in common. A PostgreSQL gets `:name` in its
-- own form, and the tables have `rail402_` before their names there.

-- name: insert_purchase
INSERT INTO purchases (id, version, order_digest, state, lease_until, created_at, purchase)
VALUES (:id, :version, :order_digest, :state, :lease_until, :created_at, :purchase);

-- name: update_purchase
-- `version` is the next one; a row that has moved on, or is resolved, is not touched.
UPDATE purchases
   SET version = :version, state = :state, lease_until = :lease_until, purchase = :purchase
 WHERE id = :id AND version = :version - 1 AND is_open;

-- name: rewrite_purchase
-- The same for a row that is resolved.
UPDATE purchases
   SET version = :version, state = :state, lease_until = :lease_until, purchase = :purchase
 WHERE id = :id AND version = :version - 1;

-- name: is_leased
SELECT 1 FROM purchases WHERE id = :id AND lease_until > :now;

-- name: get_purchase
SELECT purchase FROM purchases WHERE id = :id;

-- name: open_for_order
SELECT purchase FROM purchases WHERE is_open AND order_digest = :order_digest ORDER BY created_at, id;

-- name: unresolved
SELECT purchase FROM purchases WHERE is_open ORDER BY created_at, id;

-- name: newest
SELECT purchase
  FROM purchases
 WHERE CAST(:before AS TEXT) IS NULL OR (created_at, id) < (SELECT created_at, id FROM purchases WHERE id = :before)
 ORDER BY created_at DESC, id DESC
 LIMIT :limit;

-- name: insert_spending
INSERT INTO spending (purchase_id, scope, period, currency, amount, spent_at, is_open)
VALUES (:id, :scope, :period, :currency, :amount, :now, TRUE);

-- name: window
-- What one window holds: all of it, and what is not resolved. Of what is resolved there are sums by the minute; of the
-- minute that the window begins in, only some counts.
SELECT CAST(coalesce(sum(amount), 0) AS BIGINT), CAST(coalesce(sum(unresolved), 0) AS BIGINT)
  FROM (SELECT amount, amount AS unresolved
          FROM spending
         WHERE scope = :scope AND period = :period AND currency = :currency AND is_open = TRUE
         UNION ALL
        SELECT amount, 0
          FROM spending_sums
         WHERE scope = :scope AND period = :period AND currency = :currency AND minute > :first_minute
         UNION ALL
        SELECT amount, 0
          FROM spending
         WHERE scope = :scope AND period = :period AND currency = :currency AND is_open = FALSE
           AND spent_at > :since AND spent_at < :first_minute_end) AS held;

-- name: windows
-- The same for every scope and currency of a period.
SELECT scope, currency, CAST(sum(amount) AS BIGINT), CAST(sum(unresolved) AS BIGINT)
  FROM (SELECT scope, currency, amount, amount AS unresolved
          FROM spending
         WHERE period = :period AND is_open = TRUE
         UNION ALL
        SELECT scope, currency, amount, 0
          FROM spending_sums
         WHERE period = :period AND minute > :first_minute
         UNION ALL
        SELECT scope, currency, amount, 0
          FROM spending
         WHERE period = :period AND is_open = FALSE AND spent_at > :since AND spent_at < :first_minute_end) AS held
 GROUP BY scope, currency
 ORDER BY scope, currency;

-- name: spending_of
-- In one order: each is added to a sum, and who adds to two of them waits for nobody who has the second.
SELECT scope, period, amount FROM spending WHERE purchase_id = :id AND is_open ORDER BY scope, period;

-- name: close_spending
UPDATE spending
   SET amount = :amount, spent_at = :now, is_open = FALSE
 WHERE purchase_id = :id AND scope = :scope AND period = :period AND is_open;

-- name: delete_spending
DELETE FROM spending WHERE purchase_id = :id;

-- name: pinned_keys
SELECT x, kid FROM issuer_keys WHERE origin = :origin ORDER BY pinned_at, x;

-- name: pin_key
INSERT INTO issuer_keys (origin, x, kid, pinned_at) VALUES (:origin, :x, :kid, :now) ON CONFLICT (origin, x) DO NOTHING;

-- name: forget_keys
DELETE FROM issuer_keys WHERE origin = :origin;

-- name: paused_since
SELECT since FROM pause;

-- name: pause
INSERT INTO pause (id, since) VALUES (1, :now) ON CONFLICT (id) DO NOTHING;

-- name: unpause
DELETE FROM pause;

-- name: confirmed_limits
SELECT limits FROM confirmed_limits;

-- name: confirm_limits
INSERT INTO confirmed_limits (id, limits, confirmed_at) VALUES (1, :limits, :now)
    ON CONFLICT (id) DO UPDATE SET limits = excluded.limits, confirmed_at = excluded.confirmed_at;

-- name: payees_of
SELECT payee FROM pinned_payees
 WHERE host = :host AND rail = :rail AND network = :network ORDER BY pinned_at, payee;

-- name: price_of
SELECT amount FROM pinned_prices
 WHERE host = :host AND method = :method AND path = :path AND currency = :currency;

-- name: pin_payee
INSERT INTO pinned_payees (host, rail, network, payee, pinned_at) VALUES (:host, :rail, :network, :payee, :now)
    ON CONFLICT (host, rail, network, payee) DO NOTHING;

-- name: pin_price
INSERT INTO pinned_prices (host, method, path, currency, amount, pinned_at)
VALUES (:host, :method, :path, :currency, :amount, :now)
    ON CONFLICT (host, method, path, currency) DO NOTHING;

-- name: forget_price
DELETE FROM pinned_prices WHERE host = :host AND method = :method AND path = :path AND currency = :currency;

-- name: pinned_payees
SELECT host, rail, network, payee, pinned_at FROM pinned_payees ORDER BY host, rail, network, pinned_at, payee;

-- name: pinned_prices
SELECT host, method, path, currency, amount, pinned_at FROM pinned_prices ORDER BY host, path, method, currency;

-- name: unpin_payees
DELETE FROM pinned_payees WHERE host = :host;

-- name: unpin_prices
DELETE FROM pinned_prices WHERE host = :host;
