-- Deletion of old data, one page per transaction. What is deleted by age is held first and looked at again, because
-- another node may just add to it.

-- name: old_push_bodies
-- Finds the oldest push bodies. Pending pushes are excluded.
SELECT task_id, id, LENGTH(body) AS weight
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
FROM unnest(CAST(:task_ids AS text[]), CAST(:ids AS text[])) AS old (task_id, id)
WHERE pushes.task_id = old.task_id
  AND pushes.id = old.id;

-- name: old_intents
-- Reads a page of intents by age, with whether each is old and no longer needed for a submit.
SELECT
    intents.task_id AS id,
    tasks.created_at < :before AS is_old,
    tasks.state NOT IN ('queued', 'submitting') AS is_free,
    LENGTH(intents.body) AS weight
FROM intents
JOIN tasks ON tasks.id = intents.task_id
WHERE intents.task_id > :after
ORDER BY intents.task_id
LIMIT :limit;

-- name: delete_intents
-- Deletes the bodies of submits.
DELETE FROM intents
WHERE task_id = ANY(:ids);

-- name: hold_events
-- Holds some events until the commit, so that they get no new delivery.
SELECT id
FROM events
WHERE id = ANY(:ids)
ORDER BY id
FOR UPDATE;

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
  AND events.id = ANY(:ids) -- if ids
ORDER BY events.id
LIMIT :limit;

-- name: count_deliveries
-- Counts the deliveries and attempts of some events.
SELECT COUNT(DISTINCT deliveries.id) AS deliveries, COUNT(attempts.number) AS attempts
FROM deliveries
LEFT JOIN attempts ON attempts.delivery_id = deliveries.id
WHERE deliveries.event_id = ANY(:ids);

-- name: delete_events
-- Deletes events, and by cascade their deliveries, attempts and assets.
DELETE FROM events
WHERE id = ANY(:ids);

-- name: hold_tasks
-- Holds some tasks until the commit, so that they get no new push or event.
SELECT id
FROM tasks
WHERE id = ANY(:ids)
ORDER BY id
FOR UPDATE;

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
  AND id = ANY(:ids) -- if ids
ORDER BY id
LIMIT :limit;

-- name: count_pushes
-- Counts the pushes of some tasks.
SELECT COUNT(*) AS pushes
FROM pushes
WHERE task_id = ANY(:ids);

-- name: delete_tasks
-- Deletes tasks, and by cascade their intents, costs and pushes.
DELETE FROM tasks
WHERE id = ANY(:ids);

-- name: delete_actions
-- Deletes old audit entries.
DELETE FROM actions
WHERE seq IN (SELECT seq FROM actions WHERE at < :before ORDER BY seq LIMIT :limit);

-- name: delete_kept_costs
-- Deletes the costs of deleted tasks once they are old.
DELETE FROM deleted_costs
WHERE task_id IN (SELECT task_id FROM deleted_costs WHERE at < :before ORDER BY at LIMIT :limit);

-- name: delete_replays
-- Deletes replays that ended long ago.
DELETE FROM replays
WHERE id IN (SELECT id FROM replays WHERE finished_at < :before ORDER BY id LIMIT :limit);

-- name: delete_alerts
-- Deletes alerts that closed long ago.
DELETE FROM alerts
WHERE id IN (SELECT id FROM alerts WHERE closed_at < :before ORDER BY closed_at LIMIT :limit);

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
