-- What is pinned is pinned for a host, whatever its scheme and port.

-- The host of each origin: what is between the scheme and the port; an IPv6 address is without its brackets.
CREATE TEMP TABLE hosts AS
SELECT origin,
       rtrim(lower(CASE WHEN authority LIKE '[%' THEN substr(authority, 2, instr(authority, ']') - 2)
                        ELSE substr(authority, 1, instr(authority || ':', ':') - 1) END), '.') AS host
  FROM (SELECT origin, substr(origin, instr(origin, '://') + 3) AS authority
          FROM (SELECT origin FROM pinned_payees UNION SELECT origin FROM pinned_prices));

CREATE TABLE payees_of_hosts (
    host      TEXT NOT NULL,
    rail      TEXT NOT NULL,
    network   TEXT NOT NULL,
    payee     TEXT NOT NULL,
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (host, rail, network, payee)
) WITHOUT ROWID;

INSERT INTO payees_of_hosts (host, rail, network, payee, pinned_at)
SELECT host, rail, network, payee, min(pinned_at)
  FROM pinned_payees JOIN hosts USING (origin)
 GROUP BY host, rail, network, payee;

CREATE TABLE prices_of_hosts (
    host      TEXT NOT NULL,
    method    TEXT NOT NULL,
    path      TEXT NOT NULL,
    currency  TEXT NOT NULL,
    amount    INTEGER NOT NULL,
    pinned_at INTEGER NOT NULL,
    PRIMARY KEY (host, method, path, currency)
) WITHOUT ROWID;

-- The first price of all: SQLite takes the other columns from the row that min() is from.
INSERT INTO prices_of_hosts (host, method, path, currency, amount, pinned_at)
SELECT host, method, path, currency, amount, min(pinned_at)
  FROM pinned_prices JOIN hosts USING (origin)
 GROUP BY host, method, path, currency;

DROP TABLE hosts;
DROP TABLE pinned_payees;
DROP TABLE pinned_prices;
ALTER TABLE payees_of_hosts RENAME TO pinned_payees;
ALTER TABLE prices_of_hosts RENAME TO pinned_prices;
