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
  AND state = ANY(:states) -- if states
  AND CASE WHEN end_reason = 'cancelled' THEN 'cancelled' ELSE state END = ANY(:listed_states) -- if listed_states
  AND endpoint = :endpoint -- if endpoint
  AND label = :label -- if label
  AND batch = :batch -- if batch
  AND CAST(tags AS jsonb) @> CAST(:tags AS jsonb) -- if tags
  AND ( -- if text
      STRPOS(id, :text) > 0 -- if text
      OR STRPOS(kling_id, :text) > 0 -- if text
      OR STRPOS(LOWER(external_task_id COLLATE "C"), :text) > 0 -- if text
      OR STRPOS(LOWER(label COLLATE "C"), :text) > 0 -- if text
      OR EXISTS ( -- if text
          SELECT 1 -- if text
          FROM intents -- if text
          WHERE intents.task_id = tasks.id -- if text
            AND LENGTH(intents.body) <= 65536 -- if text
            AND STRPOS(LOWER(prompt_of(intents.body) COLLATE "C"), :text) > 0 -- if text
      ) -- if text
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
  AND type = ANY(:types) -- if types
ORDER BY id DESC
LIMIT :limit;

-- name: attempts_of_deliveries
-- Lists the attempts of some deliveries, newest first.
SELECT *
FROM attempts
WHERE delivery_id = ANY(:ids)
ORDER BY started_at DESC, number DESC;

-- name: deliveries_of_events
-- Reads the route and status of all deliveries of some events, oldest first.
SELECT id, event_id, route, status, replay_of
FROM deliveries
WHERE event_id = ANY(:ids)
ORDER BY id;

-- name: costs_of_tasks
-- Reads the costs of some tasks.
SELECT task_id, charges
FROM costs
WHERE task_id = ANY(:ids);

-- name: recent_attempts
-- Reads the attempts since a time, of the newest deliveries and of those that wait for a retry.
SELECT sampled.route, attempts.started_at, attempts.duration, attempts.outcome
FROM (
    (SELECT id, route FROM deliveries WHERE id >= :first_delivery ORDER BY id DESC LIMIT :limit)
    UNION
    (SELECT id, route FROM deliveries WHERE status = 'pending' AND attempts > 0 LIMIT :limit)
) AS sampled
JOIN attempts ON attempts.delivery_id = sampled.id
WHERE attempts.started_at >= :since;

-- name: count_unfinished
-- Counts the tasks that wait for a slot and those that may use one, up to a limit each.
SELECT
    (SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE state = 'queued' LIMIT :limit) AS waiting) AS queued,
    (
        SELECT COUNT(*)
        FROM (SELECT 1 FROM tasks WHERE state IN ('submitting', 'submitted', 'processing') LIMIT :limit) AS at_work
    ) AS running;

-- name: count_dead
-- Counts the dead deliveries that were not delivered again, up to a limit.
SELECT COUNT(*) AS dead
FROM (SELECT id, event_id, route FROM deliveries WHERE status = 'dead' ORDER BY id DESC LIMIT :limit) AS dead
WHERE NOT EXISTS (
    SELECT 1
    FROM deliveries AS later
    WHERE later.event_id = dead.event_id
      AND later.route = dead.route
      AND later.id > dead.id
);
