-- The limits of a configuration file that were confirmed last, as JSON: looser ones ask before anything is bought.
CREATE TABLE rail402_confirmed_limits (
    id           integer NOT NULL PRIMARY KEY CHECK (id = 1),
    limits       text NOT NULL,
    confirmed_at bigint NOT NULL
);
