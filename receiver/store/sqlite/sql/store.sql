-- Statements about the whole store.

-- name: newest_id
-- Finds the newest id, so that new ids are newer even if the clock was set back. Ids sort by age without their prefix.
SELECT MAX(SUBSTR(id, INSTR(id, '_') + 1)) AS newest
FROM (
    SELECT MAX(id) AS id FROM tasks
    UNION ALL
    SELECT MAX(id) FROM (SELECT id FROM pushes ORDER BY rowid DESC LIMIT 1000) -- the last commits
    UNION ALL
    SELECT MAX(id) FROM events
    UNION ALL
    SELECT MAX(id) FROM deliveries
);

-- name: stats
-- Counts the rows of every kind, for the operator.
SELECT 'tasks.' || IIF(end_reason IS 'cancelled', 'cancelled', state) AS name, COUNT(*) AS number FROM tasks GROUP BY name
UNION ALL
SELECT 'batches', COUNT(*) FROM batches
UNION ALL
SELECT 'pushes.' || outcome, COUNT(*) FROM pushes GROUP BY outcome
UNION ALL
SELECT 'events', COUNT(*) FROM events
UNION ALL
SELECT 'deliveries.' || status, COUNT(*) FROM deliveries GROUP BY status
UNION ALL
SELECT 'attempts', COUNT(*) FROM attempts
UNION ALL
SELECT 'assets', COUNT(*) FROM assets;
