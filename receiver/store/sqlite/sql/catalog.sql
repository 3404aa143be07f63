-- Lists and single items, for people and programs that look something up.

-- name: list_tasks
-- Lists tasks, newest first.
SELECT *
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
  AND id >= :since -- if since
  AND id < :until -- if until
  AND state IN (SELECT value FROM json_each(:states)) -- if states
  AND IIF(end_reason IS 'cancelled', 'cancelled', state) IN (SELECT value FROM json_each(:listed_states)) -- if listed_states
  AND endpoint = :endpoint -- if endpoint
  AND label = :label -- if label
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
ORDER BY id DESC
LIMIT :limit;

-- name: count_tasks
-- Counts tasks by state, from indexes alone unless a tag is given; those that an operator cancelled once more.
SELECT state, COUNT(*) AS tasks
FROM tasks
WHERE TRUE
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
GROUP BY state
UNION ALL
SELECT 'cancelled' AS state, COUNT(*) AS tasks
FROM tasks
WHERE state = 'rejected'
  AND end_reason = 'cancelled'
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
;

-- name: list_events
-- Lists events, newest first. Alerts have an index.
SELECT *
FROM events
WHERE TRUE
  AND type >= 'alert.' AND type < 'alert/' -- if only_alerts
  AND id < :cursor -- if cursor
  AND id >= :since -- if since
  AND id < :until -- if until
  AND task_id = :task_id -- if task_id
  AND task_id IN (SELECT tasks.id FROM tasks WHERE tasks.batch = :batch) -- if batch
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY id DESC
LIMIT :limit;

-- name: events_after
-- Lists the events committed after a known one, in that order. If the known one is deleted, its id gives the position.
SELECT *
FROM events
WHERE seq > COALESCE((SELECT known.seq FROM events AS known WHERE known.id <= :after ORDER BY known.id DESC LIMIT 1), 0)
  AND id >= :since -- if since
  AND id < :until -- if until
  AND task_id = :task_id -- if task_id
  AND task_id IN (SELECT tasks.id FROM tasks WHERE tasks.batch = :batch) -- if batch
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY seq
LIMIT :limit;

-- name: list_deliveries
-- Lists deliveries with their event's type and task id, newest first.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE TRUE
  AND deliveries.id < :cursor -- if cursor
  AND deliveries.id >= :since -- if since
  AND deliveries.id < :until -- if until
  AND deliveries.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
  AND deliveries.route = :route -- if route
  AND deliveries.event_id = :event_id -- if event_id
  AND events.task_id = :task_id -- if task_id
ORDER BY deliveries.id DESC
LIMIT :limit;

-- name: list_actions
-- Lists audit entries, newest first.
SELECT *
FROM actions
WHERE TRUE
  AND subject IN (SELECT value FROM json_each(:subjects)) -- if subjects
ORDER BY seq DESC
LIMIT :limit;
