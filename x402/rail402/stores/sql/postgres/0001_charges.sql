-- Charges, what they hold, and what was answered. Times are Unix seconds.

-- `charge` is the whole record as JSON; the other columns repeat what queries need. All agree with it but `uses_taken`,
-- which is right here and counts on without the record. It is text, because jsonb cannot hold every string that JSON can.
CREATE TABLE rail402_charges (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    version     bigint NOT NULL,
    payment     text NOT NULL,
    delivery    text NOT NULL,
    lease_until bigint NOT NULL,
    created_at  bigint NOT NULL,
    valid_until bigint,
    uses        bigint NOT NULL,
    uses_taken  bigint NOT NULL,
    charge      text NOT NULL,
    -- Which write this version came from: whoever lost the connection during a write asks whether it was theirs.
    written_by  uuid NOT NULL,
    -- Not finished: somebody, at last the reconciler, still has to act on it. Such a row is never pruned.
    is_open     boolean NOT NULL GENERATED ALWAYS AS (
        delivery = 'running'
        OR payment IN ('claimed', 'holding', 'held', 'settling', 'releasing', 'refunding', 'unknown')
    ) STORED
);

CREATE INDEX rail402_charges_by_age ON rail402_charges (created_at, id);

-- Only open charges are in it, so it stays small however many are finished.
CREATE INDEX rail402_charges_by_lease ON rail402_charges (lease_until, id) WHERE is_open;

-- Only finished charges are in it, by the last time at which they mattered to anybody.
CREATE INDEX rail402_charges_by_end ON rail402_charges (greatest(created_at, lease_until, valid_until))
 WHERE NOT is_open;

-- The primary key is what makes a payment count once.
CREATE TABLE rail402_consumption_keys (
    key       text COLLATE "C" NOT NULL PRIMARY KEY,
    charge_id text COLLATE "C" NOT NULL REFERENCES rail402_charges (id) ON DELETE CASCADE
);

CREATE INDEX rail402_consumption_keys_by_charge ON rail402_consumption_keys (charge_id);

-- `fields` is a JSON array of [name, value] pairs, each byte as the character of its number (ISO 8859-1).
CREATE TABLE rail402_responses (
    charge_id text COLLATE "C" NOT NULL REFERENCES rail402_charges (id) ON DELETE CASCADE,
    slot      text COLLATE "C" NOT NULL,
    status    integer NOT NULL,
    fields    text NOT NULL,
    body      bytea NOT NULL,
    PRIMARY KEY (charge_id, slot)
);

CREATE TABLE rail402_issued (
    key          text COLLATE "C" NOT NULL PRIMARY KEY,
    order_digest text NOT NULL,
    offer        text NOT NULL,
    expires_at   bigint NOT NULL
);

CREATE INDEX rail402_issued_by_expiry ON rail402_issued (expires_at);

CREATE TABLE rail402_settings (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    value text NOT NULL
);
