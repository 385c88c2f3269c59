-- Who was paid at a host, and what a resource cost there when it was first bought.
CREATE TABLE rail402_pinned_payees (
    host      text COLLATE "C" NOT NULL,
    rail      text COLLATE "C" NOT NULL,
    network   text COLLATE "C" NOT NULL,
    payee     text COLLATE "C" NOT NULL,
    pinned_at bigint NOT NULL,
    PRIMARY KEY (host, rail, network, payee)
);

-- `path` is without a query; `amount` is in 10^-11 of the currency.
CREATE TABLE rail402_pinned_prices (
    host      text COLLATE "C" NOT NULL,
    method    text COLLATE "C" NOT NULL,
    path      text COLLATE "C" NOT NULL,
    currency  text COLLATE "C" NOT NULL,
    amount    bigint NOT NULL,
    pinned_at bigint NOT NULL,
    PRIMARY KEY (host, method, path, currency)
);
