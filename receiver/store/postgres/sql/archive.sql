-- Events whose results are archived, their files, and the deliveries that wait for them.

-- name: events_to_archive
-- Finds the events due for archiving, except those in progress.
SELECT *
FROM events
WHERE archive_at <= :now
  AND id <> ALL(:exclude)
ORDER BY archive_at, seq
LIMIT :limit;

-- name: next_archive_due
-- Finds when the next event is due for archiving, except those in progress.
SELECT archive_at
FROM events
WHERE archive_at IS NOT NULL
  AND id <> ALL(:exclude)
ORDER BY archive_at
LIMIT 1;

-- name: events_still_archiving
-- Selects those of some events whose archiving has not ended, and holds them until the commit.
SELECT id
FROM events
WHERE archiving IS NOT NULL
  AND id = ANY(:ids)
ORDER BY id
FOR NO KEY UPDATE;

-- name: insert_asset
-- Stores where an archived file is; a second location may be added later.
INSERT INTO assets (event_id, number, url, path, storage, sha256, bytes, content_type)
VALUES (:event_id, :number, :url, :path, :storage, :sha256, :bytes, :content_type)
ON CONFLICT (event_id, number) DO UPDATE
SET path = excluded.path, storage = excluded.storage;

-- name: save_archived_event
-- Updates an event's envelope with its files, and its archiving state.
UPDATE events
SET envelope = :envelope, archiving = :archiving, archive_at = :archive_at
WHERE id = :id;

-- name: make_archived_deliveries_due
-- Makes the deliveries due that waited for the files of some events.
UPDATE deliveries
SET due_at = waiting.due_at
FROM (
    SELECT deliveries.id, archived.due_at
    FROM unnest(:event_id::text[], :due_at::bigint[]) AS archived (event_id, due_at)
    JOIN deliveries ON deliveries.event_id = archived.event_id
    WHERE deliveries.status = 'pending'
      AND deliveries.claim IS NULL
      AND deliveries.attempts = 0
      AND deliveries.due_at > archived.due_at
    ORDER BY deliveries.id
    FOR NO KEY UPDATE OF deliveries
) AS waiting
WHERE deliveries.id = waiting.id;

-- name: make_all_archiving_due
-- Makes events due for archiving now that would be due later.
UPDATE events
SET archive_at = :now
FROM (SELECT id FROM events WHERE archive_at > :now ORDER BY id FOR NO KEY UPDATE) AS later
WHERE events.id = later.id;

-- name: hold_archiving_events
-- Selects all events in archiving, and holds them until the commit.
SELECT id, archiving
FROM events
WHERE archive_at IS NOT NULL
ORDER BY id
FOR NO KEY UPDATE;

-- name: abandon_archiving
-- Ends the archiving of some events.
UPDATE events
SET archiving = NULL, archive_at = NULL
WHERE id = ANY(:ids);
