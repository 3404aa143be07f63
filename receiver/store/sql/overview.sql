-- Searches for people. Each reads one window of a list, so that it costs about the same in a store of any size.

-- name: nth_task
-- Finds the task that is a number of tasks before a cursor, the lower end of a window, and the next one.
SELECT id
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT 2 OFFSET :size;

-- name: nth_event
-- Finds the event that is a number of events before a cursor, the lower end of a window, and the next one.
SELECT id
FROM events
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT 2 OFFSET :size;

-- name: nth_delivery
-- Finds the delivery that is a number of deliveries before a cursor, the lower end of a window, and the next one.
SELECT id
FROM deliveries
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT 2 OFFSET :size;

-- name: search_deliveries
-- Lists the deliveries of a window that match, with their event's type and task id, newest first.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE TRUE
  AND deliveries.id < :cursor -- if cursor
  AND deliveries.id >= :low -- if low
  AND deliveries.status = 'dead' -- if only_dead
  AND deliveries.status = :status -- if status
  AND deliveries.attempts > 0 -- if attempted
  AND deliveries.route = :route -- if route
ORDER BY deliveries.id DESC
LIMIT :limit;
