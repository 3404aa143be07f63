-- Daily reports: which were made, and what the next one is made from.

-- name: count_alerts
-- Counts the alerts that are not closed, by whether they are acknowledged.
SELECT acknowledged_at IS NOT NULL AS is_acknowledged, COUNT(*) AS number
FROM alerts
WHERE closed_at IS NULL
GROUP BY is_acknowledged;
