-- Deletion of old data, one page per transaction.

-- name: delete_alerts
-- Deletes alerts that closed long ago.
DELETE FROM alerts
WHERE id IN (SELECT id FROM alerts WHERE closed_at < :before ORDER BY closed_at LIMIT :limit);

-- name: old_intents
-- Reads a page of intents by age, with whether each is old and no longer needed for a submit.
SELECT
    intents.task_id AS id,
    tasks.created_at < :before AS is_old,
    tasks.state NOT IN ('queued', 'submitting') AS is_free,
    LENGTH(intents.body) AS weight
FROM intents
JOIN tasks ON tasks.id = intents.task_id
WHERE intents.task_id > :after
ORDER BY intents.task_id
LIMIT :limit;

-- name: delete_actions
-- Deletes old audit entries.
DELETE FROM actions
WHERE seq IN (SELECT seq FROM actions WHERE at < :before ORDER BY seq LIMIT :limit);

-- name: delete_replays
-- Deletes replays that ended long ago.
DELETE FROM replays
WHERE id IN (SELECT id FROM replays WHERE finished_at < :before ORDER BY id LIMIT :limit);

-- name: delete_kept_costs
-- Deletes the costs of deleted tasks once they are old.
DELETE FROM deleted_costs
WHERE task_id IN (SELECT task_id FROM deleted_costs WHERE at < :before ORDER BY at LIMIT :limit);
