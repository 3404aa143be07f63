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
      FROM tasks
      WHERE tasks.batch = batches.name
        AND tasks.state IN ('awaiting', 'queued', 'submitting', 'submitted', 'processing')
  )
  AND NOT EXISTS (
      SELECT 1
      FROM events
      JOIN tasks ON tasks.id = events.task_id
      WHERE events.archive_at IS NOT NULL
        AND events.archiving = 'awaited'
        AND tasks.batch = batches.name
  )
ORDER BY name
LIMIT :limit
FOR NO KEY UPDATE OF batches -- if name
;

-- name: batch_states
-- Counts the tasks of some batches by state; those that an operator cancelled once more.
SELECT batch, state, COUNT(*) AS tasks
FROM tasks
WHERE batch = ANY(:names)
GROUP BY batch, state
UNION ALL
SELECT batch, 'cancelled' AS state, COUNT(*) AS tasks
FROM tasks
WHERE batch = ANY(:names)
  AND state = 'rejected'
  AND end_reason = 'cancelled'
GROUP BY batch;

-- name: finished_batch_tasks
-- Reads the first tasks of a batch, each with the event of its current state.
SELECT tasks.*, latest.envelope, latest.body
FROM (SELECT * FROM tasks WHERE batch = :name ORDER BY id LIMIT :limit) AS tasks
LEFT JOIN LATERAL (
    SELECT events.envelope, events.body
    FROM events
    WHERE events.task_id = tasks.id
      AND events.type = 'task.' || tasks.state
    ORDER BY events.id DESC
    LIMIT 1
) AS latest ON TRUE
ORDER BY tasks.id;

-- name: list_batches
-- Lists batches, newest first.
SELECT *
FROM batches
WHERE TRUE
  AND name = :name -- if name
  AND id < :cursor -- if cursor
  AND CASE WHEN closed_at IS NULL THEN 'open' WHEN finished_at IS NULL THEN 'closed' ELSE 'finished' END -- if states
      = ANY(:states) -- if states
ORDER BY id DESC
LIMIT :limit;
