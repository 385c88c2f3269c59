-- What was bought is added up by the minute, so that a window costs the same to read however much was bought in it.

-- Of the rows of `rail402_spending` that are not open. What is for all time has one minute, 0.
CREATE TABLE rail402_spending_sums (
    scope    text COLLATE "C" NOT NULL,
    period   text NOT NULL,
    currency text COLLATE "C" NOT NULL,
    minute   bigint NOT NULL,
    amount   numeric NOT NULL,
    PRIMARY KEY (scope, period, currency, minute)
);

ALTER TABLE rail402_spending ADD COLUMN minute bigint NOT NULL
    GENERATED ALWAYS AS (CASE WHEN period IN ('hour', 'day') THEN spent_at / 60 ELSE 0 END) STORED;

INSERT INTO rail402_spending_sums (scope, period, currency, minute, amount)
SELECT scope, period, currency, minute, sum(amount)
  FROM rail402_spending
 WHERE NOT is_open
 GROUP BY scope, period, currency, minute;

CREATE FUNCTION rail402_add_spending() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND NOT OLD.is_open THEN
        UPDATE rail402_spending_sums
           SET amount = amount - OLD.amount
         WHERE scope = OLD.scope AND period = OLD.period AND currency = OLD.currency AND minute = OLD.minute;
    END IF;
    IF TG_OP <> 'DELETE' AND NOT NEW.is_open THEN
        INSERT INTO rail402_spending_sums AS sums (scope, period, currency, minute, amount)
        VALUES (NEW.scope, NEW.period, NEW.currency, NEW.minute, NEW.amount)
            ON CONFLICT (scope, period, currency, minute) DO UPDATE SET amount = sums.amount + excluded.amount;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER rail402_add_spending AFTER INSERT OR UPDATE OR DELETE ON rail402_spending
    FOR EACH ROW EXECUTE FUNCTION rail402_add_spending();
