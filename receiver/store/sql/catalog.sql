-- Lists and single items, for people and programs that look something up.

-- name: task_by_id
-- Finds a task by our id.
SELECT *
FROM tasks
WHERE id = :ref;

-- name: task_by_kling_id
-- Finds the newest task by Kling's id.
SELECT *
FROM tasks
WHERE kling_id = :ref
ORDER BY id DESC
LIMIT 1;

-- name: task_by_external_id
-- Finds the newest task by the client's own id.
SELECT *
FROM tasks
WHERE external_task_id = :ref
ORDER BY id DESC
LIMIT 1;

-- name: pushes_of_task
-- Lists the pushes of a task, oldest first.
SELECT *
FROM whole_pushes
WHERE task_id = :task_id
ORDER BY id;

-- name: event
-- Reads an event.
SELECT *
FROM events
WHERE id = :id;

-- name: delivery
-- Reads a delivery with its event's type and task id.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE deliveries.id = :id;

-- name: attempts_of_delivery
-- Lists the attempts of a delivery, oldest first.
SELECT *
FROM attempts
WHERE delivery_id = :delivery_id
ORDER BY number;

-- name: backlog
-- Counts the pending deliveries of each route and finds the oldest.
SELECT waiting.route, waiting.pending, deliveries.created_at AS oldest
FROM (
    SELECT route, COUNT(*) AS pending, MIN(id) AS oldest_id
    FROM deliveries
    WHERE status = 'pending'
    GROUP BY route
) AS waiting
JOIN deliveries ON deliveries.id = waiting.oldest_id
ORDER BY waiting.route;
