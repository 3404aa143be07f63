-- Events whose results are archived, their files, and the deliveries that wait for them.

-- name: events_to_archive
-- Finds the events due for archiving, except those in progress.
SELECT *
FROM events
WHERE archive_at <= :now
  AND id NOT IN (SELECT value FROM json_each(:exclude))
ORDER BY archive_at, seq
LIMIT :limit;

-- name: next_archive_due
-- Finds when the next event is due for archiving, except those in progress.
SELECT archive_at
FROM events
WHERE archive_at IS NOT NULL
  AND id NOT IN (SELECT value FROM json_each(:exclude))
ORDER BY archive_at
LIMIT 1;

-- name: events_still_archiving
-- Selects those of some events whose archiving has not ended.
SELECT id
FROM events
WHERE archiving IS NOT NULL
  AND id IN (SELECT value FROM json_each(:ids));

-- name: insert_asset
-- Stores where an archived file is; a second location may be added later.
INSERT INTO assets (event_id, number, url, path, storage, sha256, bytes, content_type)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id, number) DO UPDATE
SET path = excluded.path, storage = excluded.storage;

-- name: save_archived_event
-- Updates an event's envelope with its files, and its archiving state.
UPDATE events
SET envelope = ?, archiving = ?, archive_at = ?
WHERE id = ?;

-- name: make_archived_deliveries_due
-- Makes the deliveries due that waited for an event's files.
UPDATE deliveries
SET due_at = ?
WHERE event_id = ?
  AND status = 'pending'
  AND claim IS NULL
  AND attempts = 0
  AND due_at > ?;

-- name: make_all_archiving_due
-- Makes events due for archiving now that would be due later.
UPDATE events
SET archive_at = :now
WHERE archive_at > :now;

-- name: make_all_archiving_deliveries_due
-- Makes all deliveries due that waited for files, when archiving is turned off.
UPDATE deliveries
SET due_at = :now
WHERE event_id IN (SELECT id FROM events WHERE archiving = 'awaited' AND archive_at IS NOT NULL)
  AND status = 'pending'
  AND claim IS NULL
  AND attempts = 0
  AND due_at > :now;

-- name: abandon_all_archiving
-- Ends the archiving of all events.
UPDATE events
SET archiving = NULL, archive_at = NULL
WHERE archive_at IS NOT NULL;
