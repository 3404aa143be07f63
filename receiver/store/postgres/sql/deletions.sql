-- Deletion of single tasks on request.

-- name: task_to_delete
-- Reads a task, and holds it and everything about it until the commit.
SELECT *
FROM tasks
WHERE id = :task_id
FOR UPDATE -- if hold
;

-- name: count_rows_of_task
-- Counts what is stored about a task, and says whether its batch is unfinished, and open.
SELECT
    (SELECT COUNT(*) FROM pushes WHERE task_id = :task_id) AS pushes,
    (SELECT COUNT(*) FROM events WHERE task_id = :task_id) AS events,
    (SELECT COUNT(*) FROM events WHERE task_id = :task_id AND archiving IS NOT NULL) AS archiving,
    (
        SELECT COUNT(*)
        FROM events
        JOIN deliveries ON deliveries.event_id = events.id
        WHERE events.task_id = :task_id
    ) AS deliveries,
    (
        SELECT COUNT(*)
        FROM events
        JOIN deliveries ON deliveries.event_id = events.id
        WHERE events.task_id = :task_id
          AND deliveries.status = 'pending'
    ) AS pending_deliveries,
    EXISTS (SELECT 1 FROM batches WHERE name = :batch AND finished_at IS NULL) AS is_batch_unfinished,
    EXISTS (SELECT 1 FROM batches WHERE name = :batch AND closed_at IS NULL) AS is_batch_open;

-- name: asset_places
-- Lists where the archived results of a task are.
SELECT assets.path, assets.storage
FROM events
JOIN assets ON assets.event_id = events.id
WHERE events.task_id = :task_id
ORDER BY events.id, assets.number;

-- name: keep_cost
-- Copies the cost of a task that is about to be deleted, with all that costs are summed by.
INSERT INTO deleted_costs (task_id, kling_id, state, at, charges, endpoint, label, tags, batch)
SELECT
    tasks.id,
    tasks.kling_id,
    tasks.state,
    COALESCE(costs.at, tasks.updated_at),
    costs.charges,
    tasks.endpoint,
    tasks.label,
    tasks.tags,
    tasks.batch
FROM tasks
LEFT JOIN costs ON costs.task_id = tasks.id
WHERE tasks.id = :task_id
  AND (tasks.kling_id IS NOT NULL OR costs.charges IS NOT NULL)
ON CONFLICT (task_id) DO UPDATE
SET kling_id = excluded.kling_id, state = excluded.state, at = excluded.at, charges = excluded.charges,
    endpoint = excluded.endpoint, label = excluded.label, tags = excluded.tags, batch = excluded.batch;

-- name: add_removal
-- Plans to remove an archived file or object.
INSERT INTO removals (place, task_id)
VALUES (:place, :task_id)
ON CONFLICT (place) DO UPDATE SET task_id = excluded.task_id;

-- name: removals
-- Lists the files and objects still to be removed.
SELECT place, task_id
FROM removals;

-- name: delete_removals
-- Records that files and objects have been removed.
DELETE FROM removals
WHERE place = ANY(:places);
