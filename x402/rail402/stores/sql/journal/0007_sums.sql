-- What was bought is added up by the minute, so that a window costs the same to read however much was bought in it.

-- Of the rows of `spending` that are not open. What is for all time has one minute, 0.
CREATE TABLE spending_sums (
    scope    TEXT NOT NULL,
    period   TEXT NOT NULL,
    currency TEXT NOT NULL,
    minute   INTEGER NOT NULL,
    amount   INTEGER NOT NULL,
    PRIMARY KEY (period, scope, currency, minute)
) WITHOUT ROWID;

ALTER TABLE spending ADD COLUMN minute INTEGER NOT NULL
    GENERATED ALWAYS AS (CASE WHEN period IN ('hour', 'day') THEN spent_at / 60 ELSE 0 END) VIRTUAL;

-- What is open, and what was closed within a minute.
DROP INDEX spending_by_time;
DROP INDEX open_spending;
CREATE INDEX spending_by_time ON spending (period, is_open, spent_at, scope, currency, amount);

INSERT INTO spending_sums (scope, period, currency, minute, amount)
SELECT scope, period, currency, minute, sum(amount)
  FROM spending
 WHERE NOT is_open
 GROUP BY scope, period, currency, minute;

-- A sum that SQLite's integers cannot hold stays at the largest of them, which no limit allows; else it would be rounded.
CREATE TRIGGER add_inserted_spending AFTER INSERT ON spending WHEN NOT NEW.is_open
BEGIN
    INSERT INTO spending_sums (scope, period, currency, minute, amount)
    VALUES (NEW.scope, NEW.period, NEW.currency, NEW.minute, NEW.amount)
        ON CONFLICT (period, scope, currency, minute)
        DO UPDATE SET amount = min(amount + excluded.amount, 9223372036854775807);
END;

CREATE TRIGGER add_updated_spending AFTER UPDATE ON spending WHEN NOT NEW.is_open
BEGIN
    INSERT INTO spending_sums (scope, period, currency, minute, amount)
    VALUES (NEW.scope, NEW.period, NEW.currency, NEW.minute, NEW.amount)
        ON CONFLICT (period, scope, currency, minute)
        DO UPDATE SET amount = min(amount + excluded.amount, 9223372036854775807);
END;

CREATE TRIGGER subtract_updated_spending AFTER UPDATE ON spending WHEN NOT OLD.is_open
BEGIN
    UPDATE spending_sums
       SET amount = amount - OLD.amount
     WHERE scope = OLD.scope AND period = OLD.period AND currency = OLD.currency AND minute = OLD.minute;
END;

CREATE TRIGGER subtract_deleted_spending AFTER DELETE ON spending WHEN NOT OLD.is_open
BEGIN
    UPDATE spending_sums
       SET amount = amount - OLD.amount
     WHERE scope = OLD.scope AND period = OLD.period AND currency = OLD.currency AND minute = OLD.minute;
END;
