-- Sessions of the console, and one-time links that start one.

-- name: console_session
-- Reads a session of the console that has not expired.
SELECT role, name, expires_at, notice
FROM console_sessions
WHERE key = :key
  AND expires_at > :now;

-- name: has_console_session
-- Looks for a session by its key.
SELECT 1
FROM console_sessions
WHERE key = :key;

-- name: trim_console_sessions
-- Deletes the sessions of a role but those that expire last.
DELETE FROM console_sessions
WHERE role = :role
  AND key NOT IN (
    SELECT key
    FROM console_sessions
    WHERE role = :role
    ORDER BY expires_at DESC, key
    LIMIT :kept
);

-- name: insert_console_session
-- Stores a session.
INSERT INTO console_sessions (key, role, name, expires_at, notice)
VALUES (:key, :role, :name, :expires_at, :notice);

-- name: renew_console_session
-- Lets a session expire later.
UPDATE console_sessions
SET expires_at = :expires_at
WHERE key = :key
  AND expires_at < :expires_at;

-- name: set_console_notice
-- Sets what the next page of a session shows.
UPDATE console_sessions
SET notice = :notice
WHERE key = :key;

-- name: delete_console_session
-- Ends a session.
DELETE FROM console_sessions
WHERE key = :key;

-- name: delete_other_sessions
-- Ends the sessions whose keys begin with another prefix.
DELETE FROM console_sessions
WHERE substr(key, 1, :size) <> :prefix;

-- name: delete_expired_sessions
-- Deletes sessions that have expired.
DELETE FROM console_sessions
WHERE expires_at <= :now;

-- name: trim_console_links
-- Deletes the one-time links but those that expire last.
DELETE FROM console_links
WHERE key NOT IN (
    SELECT key
    FROM console_links
    ORDER BY expires_at DESC, key
    LIMIT :kept
);

-- name: insert_console_link
-- Stores a one-time link.
INSERT INTO console_links (key, role, name, expires_at)
VALUES (:key, :role, :name, :expires_at);

-- name: has_console_link
-- Looks for a one-time link by its key.
SELECT 1
FROM console_links
WHERE key = :key;

-- name: redeem_link
-- Deletes a one-time link that has not expired. Two requests for one link never both get its row.
DELETE FROM console_links
WHERE key = :key
  AND expires_at > :now
RETURNING role, name;

-- name: delete_other_links
-- Deletes the one-time links whose keys begin with another prefix.
DELETE FROM console_links
WHERE substr(key, 1, :size) <> :prefix;

-- name: delete_expired_links
-- Deletes one-time links that have expired.
DELETE FROM console_links
WHERE expires_at <= :now;
