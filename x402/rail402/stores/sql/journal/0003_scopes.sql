-- Limits for one host, payee or rail, and the total of all time.

-- One row per purchase, scope and window: `scope` is empty for all purchases, or `host a.test`, `payee 0x…`, `rail base`.
CREATE TABLE scoped_spending (
    purchase_id TEXT NOT NULL REFERENCES purchases (id) ON DELETE CASCADE,
    scope       TEXT NOT NULL,
    period      TEXT NOT NULL,
    currency    TEXT NOT NULL,
    amount      INTEGER NOT NULL,
    spent_at    INTEGER NOT NULL,
    is_open     INTEGER NOT NULL,
    PRIMARY KEY (purchase_id, scope, period)
) WITHOUT ROWID;

INSERT INTO scoped_spending (purchase_id, scope, period, currency, amount, spent_at, is_open)
SELECT purchase_id, '', period, currency, amount, spent_at, is_open FROM spending;

-- What was bought before there was a total counts in it as it did in its day.
INSERT INTO scoped_spending (purchase_id, scope, period, currency, amount, spent_at, is_open)
SELECT purchase_id, '', 'total', currency, amount, spent_at, is_open FROM spending WHERE period = 'day';

DROP TABLE spending;
ALTER TABLE scoped_spending RENAME TO spending;

CREATE INDEX spending_by_time ON spending (scope, period, currency, spent_at, is_open, amount);
CREATE INDEX open_spending ON spending (scope, period, currency, amount) WHERE is_open;
