-- Deletion of single tasks on request.

-- name: task_to_delete
-- Reads a task, and holds it until the commit.
SELECT *
FROM tasks
WHERE id = :task_id
FOR UPDATE -- if hold
;

-- name: hold_events_of_task
-- Holds the events of a task until the commit, so that they get no new delivery.
SELECT id
FROM events
WHERE task_id = :task_id
ORDER BY id
FOR UPDATE;

-- name: hold_deliveries
-- Holds the deliveries of some events until the commit.
SELECT id
FROM deliveries
WHERE event_id = ANY(:events)
ORDER BY id
FOR UPDATE;

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

-- name: delete_removals
-- Records that files and objects have been removed.
DELETE FROM removals
WHERE place IN (SELECT place FROM removals WHERE place = ANY(:places) ORDER BY place FOR UPDATE);
