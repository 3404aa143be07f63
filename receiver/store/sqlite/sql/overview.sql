-- Searches for people. Each reads one window of a list, so that it costs about the same in a store of any size.

-- name: search_tasks
-- Lists the tasks of a window that match, newest first. A text is looked for in ids, the label and the prompt. Only
-- requests of up to 64 KiB are searched: larger ones hold pictures.
SELECT *
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
  AND id >= :low -- if low
  AND id >= :since -- if since
  AND id < :until -- if until
  AND state IN (SELECT value FROM json_each(:states)) -- if states
  AND IIF(end_reason IS 'cancelled', 'cancelled', state) IN (SELECT value FROM json_each(:listed_states)) -- if listed_states
  AND endpoint = :endpoint -- if endpoint
  AND label = :label -- if label
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
  AND ( -- if text
      INSTR(id, :text) -- if text
      OR INSTR(kling_id, :text) -- if text
      OR INSTR(LOWER(external_task_id), :text) -- if text
      OR INSTR(LOWER(label), :text) -- if text
      OR INSTR(LOWER(( -- if text
          SELECT CAST(body AS TEXT) ->> '$.prompt' -- if text
          FROM intents -- if text
          WHERE task_id = tasks.id AND IIF(LENGTH(body) <= 65536, json_valid(CAST(body AS TEXT)), FALSE) -- if text
      )), :text) -- if text
  ) -- if text
ORDER BY id DESC
LIMIT :limit;

-- name: search_events
-- Lists the events of a window that match, newest first.
SELECT *
FROM events
WHERE TRUE
  AND id < :cursor -- if cursor
  AND id >= :low -- if low
  AND id >= :since -- if since
  AND id < :until -- if until
  AND task_id = :task_id -- if task_id
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY id DESC
LIMIT :limit;

-- name: attempts_of_deliveries
-- Lists the attempts of some deliveries, newest first.
SELECT *
FROM attempts
WHERE delivery_id IN (SELECT value FROM json_each(:ids))
ORDER BY started_at DESC, number DESC;

-- name: deliveries_of_events
-- Reads the route and status of all deliveries of some events, oldest first.
SELECT id, event_id, route, status, replay_of
FROM deliveries
WHERE event_id IN (SELECT value FROM json_each(:ids))
ORDER BY id;

-- name: costs_of_tasks
-- Reads the costs of some tasks.
SELECT task_id, charges
FROM costs
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: recent_attempts
-- Reads the attempts since a time, of the newest deliveries and of those that wait for a retry.
SELECT sampled.route, attempts.started_at, attempts.duration, attempts.outcome
FROM (
    SELECT id, route
    FROM (SELECT id, route FROM deliveries WHERE id >= :first_delivery ORDER BY id DESC LIMIT :limit)
    UNION
    SELECT id, route
    FROM (SELECT id, route FROM deliveries WHERE status = 'pending' AND attempts > 0 LIMIT :limit)
) AS sampled
JOIN attempts ON attempts.delivery_id = sampled.id
WHERE attempts.started_at >= :since;

-- name: count_unfinished
-- Counts the tasks that wait for a slot and those that may use one, up to a limit each.
SELECT
    (SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE state = 'queued' LIMIT :limit)) AS queued,
    (
        SELECT COUNT(*)
        FROM (SELECT 1 FROM tasks WHERE state IN ('submitting', 'submitted', 'processing') LIMIT :limit)
    ) AS running;

-- name: count_dead
-- Counts the dead deliveries that were not delivered again, up to a limit.
SELECT COUNT(*) AS dead
FROM (
    SELECT 1
    FROM (SELECT id, event_id, route FROM deliveries WHERE status = 'dead' ORDER BY id DESC LIMIT :limit) AS dead
    WHERE NOT EXISTS (
        SELECT 1
        FROM deliveries AS later
        WHERE later.event_id = dead.event_id
          AND later.route = dead.route
          AND later.id > dead.id
    )
);
