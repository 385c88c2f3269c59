-- The kill switch: since when nothing new is bought, Unix seconds. No row: purchases are made.
CREATE TABLE pause (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    since INTEGER NOT NULL
);
