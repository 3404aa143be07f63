-- A copy of a whole store into a new database, or out of one.

-- name: other_sessions
-- Counts the other sessions that use the database.
SELECT COUNT(*)
FROM pg_stat_activity
WHERE datname = current_database()
  AND backend_type = 'client backend'
  AND pid <> pg_backend_pid();

-- name: columns_to_copy
-- Lists the columns of a table, with their types.
SELECT attname AS name, format_type(atttypid, NULL) AS type
FROM pg_attribute
WHERE attrelid = to_regclass(:table)
  AND attnum > 0
  AND NOT attisdropped;

-- name: last_number
-- Reads the last number that a numbered table has given to a row; NULL if none.
SELECT pg_sequence_last_value(pg_get_serial_sequence(:table, 'seq'));

-- name: set_last_number
-- Lets a numbered table continue after a number.
SELECT setval(pg_get_serial_sequence(:table, 'seq'), :number);

-- name: create_copying
-- Creates the mark of an unfinished copy, which no service opens.
CREATE TABLE copying (origin TEXT NOT NULL);

-- name: mark_copy
-- Notes what a copy is of.
INSERT INTO copying (origin)
VALUES (:origin);

-- name: origin_of_copy
-- Reads what an unfinished copy is of.
SELECT origin
FROM copying;

-- name: drop_copying
-- Removes the mark of an unfinished copy.
DROP TABLE copying;
