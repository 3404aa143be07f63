-- Daily reports: which were made, and what the next one is made from.

-- name: count_dead_deliveries
-- Counts the deliveries of each route that died lately and were not delivered again.
SELECT dead.route, COUNT(*) AS dead
FROM deliveries AS dead
WHERE dead.status = 'dead'
  AND dead.finished_at >= :since
  AND NOT EXISTS (
      SELECT 1
      FROM deliveries AS later
      WHERE later.event_id = dead.event_id
        AND later.route = dead.route
        AND later.id > dead.id
  )
GROUP BY dead.route
ORDER BY dead.route;

-- name: last_report
-- Reads the last daily report.
SELECT *
FROM reports
ORDER BY day DESC
LIMIT 1;

-- name: insert_report
-- Stores that the report of a day was made, unless it was.
INSERT INTO reports (day, event_id, created_at, callbacks_missed)
VALUES (:day, :event_id, :at, :callbacks_missed)
ON CONFLICT (day) DO NOTHING;

-- name: delete_old_reports
-- Keeps the last reports alone.
DELETE FROM reports
WHERE day <= (SELECT day FROM reports ORDER BY day DESC LIMIT 1 OFFSET 31);

-- name: count_ends
-- Counts the tasks that ended in a period, by their event's type. Ids sort by age.
SELECT type, COUNT(*) AS number
FROM events
WHERE id >= :first
  AND id < :last
  AND type IN ('task.succeed', 'task.failed', 'task.rejected', 'task.expired')
GROUP BY type;
