-- Deletion of old data, one page per transaction.

-- name: old_push_bodies
-- Finds the oldest push bodies. Pending pushes are excluded.
SELECT rowid AS id, TRUE AS is_old, TRUE AS is_free, LENGTH(body) AS weight
FROM pushes
WHERE body IS NOT NULL
  AND outcome <> 'pending'
  AND received_at < :before
ORDER BY received_at
LIMIT :limit;

-- name: clear_push_bodies
-- Deletes the bodies of pushes. Their rows, digests and outcomes stay.
UPDATE pushes
SET body = NULL
WHERE rowid IN (SELECT value FROM json_each(:ids));

-- name: delete_intents
-- Deletes the bodies of submits.
DELETE FROM intents
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: old_events
-- Reads a page of events by age, with whether each is old and may be deleted. An event may be deleted if it has no
-- pending delivery and no archiving, and belongs neither to an unfinished task nor to a closed, unfinished batch.
SELECT
    events.id,
    events.created_at < :before AS is_old,
    events.archiving IS NULL
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.status = 'pending')
    AND (
        tasks.id IS NULL
        OR tasks.state IN ('succeed', 'failed', 'rejected', 'expired')
        OR tasks.state IN ('awaiting', 'submitted', 'processing') AND tasks.due_at IS NULL AND tasks.expires_at <= :now
    )
    AND NOT EXISTS (
        SELECT 1
        FROM batches
        WHERE batches.name = tasks.batch
          AND batches.closed_at IS NOT NULL
          AND batches.finished_at IS NULL
    ) AS is_free,
    (
        SELECT COUNT(*)
        FROM deliveries
        JOIN attempts ON attempts.delivery_id = deliveries.id
        WHERE deliveries.event_id = events.id
    ) AS weight
FROM events
LEFT JOIN tasks ON tasks.id = events.task_id
WHERE events.id > :after
ORDER BY events.id
LIMIT :limit;

-- name: count_deliveries
-- Counts the deliveries and attempts of some events.
SELECT COUNT(DISTINCT deliveries.id), COUNT(attempts.number)
FROM deliveries
LEFT JOIN attempts ON attempts.delivery_id = deliveries.id
WHERE deliveries.event_id IN (SELECT value FROM json_each(:ids));

-- name: delete_events
-- Deletes events, and by cascade their deliveries, attempts and assets.
DELETE FROM events
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: old_tasks
-- Reads a page of tasks by age, with whether each is old, ended and without events. A task also counts as ended if
-- its callback URL has expired and Kling is not polled.
SELECT
    id,
    created_at < :before AS is_old,
    updated_at < :before
    AND due_at IS NULL
    AND (
        state IN ('succeed', 'failed', 'rejected', 'expired')
        OR state IN ('awaiting', 'submitted', 'processing') AND expires_at <= :now
    )
    AND NOT EXISTS (SELECT 1 FROM events WHERE events.task_id = tasks.id) AS is_free,
    (SELECT COUNT(*) FROM pushes WHERE pushes.task_id = tasks.id) AS weight
FROM tasks
WHERE id > :after
ORDER BY id
LIMIT :limit;

-- name: count_pushes
-- Counts the pushes of some tasks.
SELECT COUNT(*)
FROM pushes
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: delete_tasks
-- Deletes tasks, and by cascade their intents, costs and pushes.
DELETE FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: delete_batches
-- Deletes old batches without tasks.
DELETE FROM batches
WHERE id IN (
    SELECT batches.id
    FROM batches
    WHERE COALESCE(batches.finished_at, batches.created_at) < :before
      AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.batch = batches.name)
    ORDER BY batches.id
    LIMIT :limit
);
