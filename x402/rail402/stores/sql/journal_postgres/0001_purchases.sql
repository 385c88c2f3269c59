-- An agent's purchases, what they count in its budget, and the keys of those who sign receipts. Times are Unix seconds;
-- those of leases, windows and the pause are by this server's clock.

-- `purchase` is the whole record as JSON, its proof included; the other columns repeat what queries need.
CREATE TABLE rail402_purchases (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    version      bigint NOT NULL,
    order_digest text COLLATE "C" NOT NULL,
    state        text NOT NULL,
    lease_until  bigint NOT NULL,
    created_at   bigint NOT NULL,
    purchase     text NOT NULL,
    is_open      boolean NOT NULL GENERATED ALWAYS AS (state IN ('reserved', 'presented', 'unknown')) STORED
);

CREATE INDEX rail402_purchases_by_age ON rail402_purchases (created_at, id);

-- Only what is not resolved is in it.
CREATE INDEX rail402_open_purchases ON rail402_purchases (order_digest, created_at, id) WHERE is_open;

-- One row per purchase, scope and window: `scope` is empty for all purchases, or `host a.test`, `payee 0x…`, `rail base`.
-- `amount` is in 10^-11 of the currency; `is_open` rows count whatever their age.
CREATE TABLE rail402_spending (
    purchase_id text COLLATE "C" NOT NULL REFERENCES rail402_purchases (id) ON DELETE CASCADE,
    scope       text COLLATE "C" NOT NULL,
    period      text NOT NULL,
    currency    text COLLATE "C" NOT NULL,
    amount      bigint NOT NULL,
    spent_at    bigint NOT NULL,
    is_open     boolean NOT NULL,
    PRIMARY KEY (purchase_id, scope, period)
);

CREATE INDEX rail402_spending_by_time ON rail402_spending (scope, period, currency, spent_at) INCLUDE (amount, is_open);
CREATE INDEX rail402_open_spending ON rail402_spending (scope, period, currency) INCLUDE (amount) WHERE is_open;

CREATE TABLE rail402_issuer_keys (
    origin    text COLLATE "C" NOT NULL,
    x         text COLLATE "C" NOT NULL,
    kid       text NOT NULL,
    pinned_at bigint NOT NULL,
    PRIMARY KEY (origin, x)
);

-- There is a row while nothing may be bought.
CREATE TABLE rail402_pause (
    id    integer NOT NULL PRIMARY KEY CHECK (id = 1),
    since bigint NOT NULL
);
