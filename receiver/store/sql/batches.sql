-- Batches: groups of tasks that are reported together.

-- name: close_batch
-- Closes an open batch.
UPDATE batches
SET closed_at = :now
WHERE name = :name
  AND closed_at IS NULL;

-- name: finish_batch
-- Marks a batch as finished and sets its event, unless it is already finished.
UPDATE batches
SET finished_at = :now, event_id = :event_id
WHERE name = :name
  AND closed_at IS NOT NULL
  AND finished_at IS NULL;
