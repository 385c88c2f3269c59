-- The uses of a pass that are under way: one whose worker is gone comes back.

CREATE TABLE rail402_uses (
    charge_id   text COLLATE "C" NOT NULL REFERENCES rail402_charges (id) ON DELETE CASCADE,
    use         text COLLATE "C" NOT NULL,
    slot        text NOT NULL,
    lease_until bigint NOT NULL,
    PRIMARY KEY (charge_id, use)
);
