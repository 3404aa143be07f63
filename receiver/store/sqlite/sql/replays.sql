-- Replays: their selections and their progress.

-- name: make_delivery_due
-- Makes a pending delivery due, unless an attempt is in progress.
UPDATE deliveries
SET due_at = MIN(due_at, :now)
WHERE id = :id
  AND status = 'pending'
  AND (claim IS NULL OR due_at <= :now);

-- name: deliveries_to_replay
-- Selects deliveries that had ended when a replay was requested, oldest first. Of each event it selects the newest per
-- route, or the newest of all routes if the replay has another target, so that no event is repeated twice to one route.
SELECT
    deliveries.id AS position,
    deliveries.event_id,
    COALESCE(:to_route, deliveries.route) AS route,
    deliveries.id AS replay_of,
    deliveries.status,
    deliveries.created_at,
    events.type AS event_type,
    events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE deliveries.status <> 'pending'
  AND deliveries.status = 'dead' -- if only_dead
  AND deliveries.finished_at <= :requested_at
  AND deliveries.id > :cursor
  AND deliveries.id <= :last
  AND deliveries.id IN (SELECT value FROM json_each(:deliveries)) -- if deliveries
  AND deliveries.event_id IN (SELECT value FROM json_each(:events)) -- if events
  AND events.task_id = :task_id -- if task_id
  AND deliveries.route = :route -- if route
  AND deliveries.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
  AND deliveries.created_at >= :since -- if since
  AND deliveries.created_at < :until -- if until
  AND (deliveries.route LIKE 'reply:%' OR deliveries.route IN (SELECT value FROM json_each(:known_routes))) -- if known_routes
  AND NOT EXISTS (
      SELECT 1
      FROM deliveries AS newer
      WHERE newer.event_id = deliveries.event_id
        AND newer.id > deliveries.id
        AND newer.id <= :last
        AND newer.status <> 'pending'
        AND newer.finished_at <= :requested_at
        AND newer.route = deliveries.route -- if same_route
        AND newer.route = :route -- if route
        AND newer.id IN (SELECT value FROM json_each(:deliveries)) -- if deliveries
        AND newer.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
        AND newer.created_at >= :since -- if since
        AND newer.created_at < :until -- if until
  )
ORDER BY deliveries.id
LIMIT :limit;

-- name: events_to_replay
-- Selects events for a route, oldest first, with the newest delivery of each to that route.
SELECT
    events.id AS position,
    events.id AS event_id,
    :to_route AS route,
    (SELECT MAX(id) FROM deliveries WHERE event_id = events.id AND route = :to_route) AS replay_of,
    NULL AS status,
    events.created_at,
    events.type AS event_type,
    events.task_id AS event_task_id
FROM events
WHERE events.id > :cursor
  AND events.id <= :last
  AND events.id IN (SELECT value FROM json_each(:events)) -- if events
  AND events.task_id = :task_id -- if task_id
  AND events.created_at >= :since -- if since
  AND events.created_at < :until -- if until
  AND IIF(type LIKE 'task.%', substr(type, 6), substr(type, 1, instr(type, '.') - 1)) IN ( -- if event_kinds
      SELECT value FROM json_each(:event_kinds) -- if event_kinds
  ) -- if event_kinds
ORDER BY events.id
LIMIT :limit;

-- name: count_replay_items
-- Counts the items of a replay by route and status.
SELECT route, status, COUNT(*) AS count, MIN(created_at) AS oldest, MAX(created_at) AS newest
FROM :items
GROUP BY route, status
ORDER BY route, status;

-- name: insert_replay
-- Inserts a replay.
INSERT INTO replays (
    id, state, selection, actor, why, last, total, created_at, rate_count, rate_per, cursor, created, finished_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);
