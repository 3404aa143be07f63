-- Batches: groups of tasks that are reported together.

-- name: complete_batches
-- Finds closed, unfinished batches whose tasks and archiving have all ended.
-- It runs at each end of a task, so it starts from the unfinished tasks and the events in archiving, which are few.
SELECT *
FROM batches
WHERE closed_at IS NOT NULL
  AND finished_at IS NULL
  AND name = :name -- if name
  AND NOT EXISTS (
      SELECT 1
      FROM tasks INDEXED BY tasks_unfinished_in_batch
      WHERE tasks.batch = batches.name
        AND tasks.state IN ('awaiting', 'queued', 'submitting', 'submitted', 'processing')
  )
  AND NOT EXISTS (
      SELECT 1
      FROM events
      CROSS JOIN tasks ON tasks.id = events.task_id
      WHERE events.archive_at IS NOT NULL
        AND events.archiving = 'awaited'
        AND tasks.batch = batches.name
  )
ORDER BY name
LIMIT :limit;

-- name: batch_states
-- Counts the tasks of some batches by state; those that an operator cancelled once more.
SELECT batch, state, COUNT(*) AS tasks
FROM tasks
WHERE batch IN (SELECT value FROM json_each(:names))
GROUP BY batch, state
UNION ALL
SELECT batch, 'cancelled' AS state, COUNT(*) AS tasks
FROM tasks
WHERE batch IN (SELECT value FROM json_each(:names))
  AND state = 'rejected'
  AND end_reason = 'cancelled'
GROUP BY batch;

-- name: finished_batch_tasks
-- Reads the first tasks of a batch, each with the event of its current state.
SELECT tasks.*, events.envelope, events.body
FROM tasks
LEFT JOIN events ON events.seq = (
    SELECT latest.seq
    FROM events AS latest
    WHERE latest.task_id = tasks.id
      AND latest.type = 'task.' || tasks.state
    ORDER BY latest.id DESC
    LIMIT 1
)
WHERE tasks.batch = :name
ORDER BY tasks.id
LIMIT :limit;

-- name: list_batches
-- Lists batches, newest first.
SELECT *
FROM batches
WHERE TRUE
  AND name = :name -- if name
  AND id < :cursor -- if cursor
  AND IIF(closed_at IS NULL, 'open', IIF(finished_at IS NULL, 'closed', 'finished')) IN ( -- if states
      SELECT value FROM json_each(:states) -- if states
  ) -- if states
ORDER BY id DESC
LIMIT :limit;
