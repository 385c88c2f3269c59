-- The limits of a configuration file that were confirmed last, as JSON: looser ones ask before anything is bought.
CREATE TABLE confirmed_limits (
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    limits       TEXT NOT NULL,
    confirmed_at INTEGER NOT NULL
);
