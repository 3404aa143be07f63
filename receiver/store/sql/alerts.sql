-- Tracked alerts: one row from the first report of an alert until it recovers.

-- name: open_alert
-- Finds the open alert of a topic about a subject.
SELECT *
FROM alerts
WHERE topic = :topic
  AND subject = :subject
  AND closed_at IS NULL;

-- name: save_alert
-- Inserts an alert, or updates it after another report.
INSERT INTO alerts (
    id, topic, subject, type, message, remedy, cause, level, event_id, opened_at, last_seen_at, times,
    acknowledged_at, acknowledged_by, note
)
VALUES (
    :id, :topic, :subject, :type, :message, :remedy, :cause, :level, :event_id, :opened_at, :last_seen_at, :times,
    :acknowledged_at, :acknowledged_by, :note
)
ON CONFLICT (id) DO UPDATE
SET type = excluded.type, message = excluded.message, remedy = excluded.remedy, cause = excluded.cause,
    level = excluded.level, event_id = excluded.event_id, last_seen_at = excluded.last_seen_at,
    times = excluded.times, acknowledged_at = excluded.acknowledged_at, acknowledged_by = excluded.acknowledged_by,
    note = excluded.note;
