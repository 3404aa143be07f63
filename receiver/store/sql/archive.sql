-- Events whose results are archived, their files, and the deliveries that wait for them.

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
