-- Deletion of single tasks on request.

-- name: tasks_by_id
-- Reads the tasks of a group of changes.
SELECT *
FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids));

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
  AND (tasks.kling_id IS NOT NULL OR costs.charges IS NOT NULL);

-- name: add_removal
-- Plans to remove an archived file or object.
INSERT OR REPLACE INTO removals (place, task_id)
VALUES (?, ?);

-- name: delete_removal
-- Records that a file or object has been removed.
DELETE FROM removals
WHERE place = ?;
