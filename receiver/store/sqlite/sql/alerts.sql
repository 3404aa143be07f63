-- Tracked alerts: one row from the first report of an alert until it recovers.

-- name: acknowledge_alert
-- Acknowledges an open alert, and closes it if its topic is one of *closing*.
UPDATE alerts
SET acknowledged_at = :now, acknowledged_by = :actor, note = :note,
    closed_at = IIF(topic IN (SELECT value FROM json_each(:closing)), :now, NULL),
    closed_by = IIF(topic IN (SELECT value FROM json_each(:closing)), 'acknowledgement', NULL)
WHERE id = :id
  AND acknowledged_at IS NULL
  AND closed_at IS NULL;

-- name: close_alerts
-- Closes open alerts that recovered.
UPDATE alerts
SET closed_at = :now, closed_by = 'recovery'
WHERE id IN (SELECT value FROM json_each(:ids))
  AND closed_at IS NULL
RETURNING id;

-- name: ended_alerts
-- Finds open alerts whose cause has ended without an event of its own. A destination that rejected events works again
-- if one of the newest deliveries reached it since.
SELECT id
FROM alerts
WHERE closed_at IS NULL
  AND (
      topic IN ('task_stuck', 'task_contradicted', 'submit_unknown') AND NOT EXISTS (
          SELECT 1
          FROM tasks
          WHERE tasks.id = alerts.subject
            AND (topic <> 'task_stuck' OR tasks.state IN ('awaiting', 'submitting', 'submitted', 'processing'))
            AND (topic <> 'submit_unknown' OR tasks.end_reason = 'unknown')
      )
      OR topic = 'delivery_dead' AND NOT EXISTS (
          SELECT 1
          FROM deliveries AS dead INDEXED BY deliveries_dead
          WHERE dead.route = alerts.subject
            AND dead.status = 'dead'
            AND NOT EXISTS (
                SELECT 1
                FROM deliveries AS later
                WHERE later.event_id = dead.event_id
                  AND later.route = dead.route
                  AND later.id > dead.id
            )
      )
      OR topic = 'events_rejected' AND EXISTS (
          SELECT 1
          FROM (SELECT route, status, finished_at FROM deliveries ORDER BY id DESC LIMIT 10000) AS newest
          WHERE newest.route = alerts.subject
            AND newest.status = 'delivered'
            AND newest.finished_at > alerts.last_seen_at
      )
      OR topic = 'asset' AND NOT EXISTS (
          SELECT 1
          FROM events
          WHERE events.id = alerts.subject
            AND (events.archiving IS NOT NULL OR alerts.acknowledged_at IS NULL)
      )
  )
ORDER BY id
LIMIT :limit;

-- name: list_alerts
-- Lists alerts, newest first.
SELECT *
FROM alerts
WHERE TRUE
  AND id = :id -- if id
  AND id < :cursor -- if cursor
  AND id >= :since -- if since
  AND id < :until -- if until
  AND type IN (SELECT value FROM json_each(:types)) -- if types
  AND subject = :subject -- if subject
  AND IIF(closed_at IS NOT NULL, 'closed', IIF(acknowledged_at IS NULL, 'open', 'acknowledged')) IN ( -- if states
      SELECT value FROM json_each(:states) -- if states
  ) -- if states
ORDER BY id DESC
LIMIT :limit;
