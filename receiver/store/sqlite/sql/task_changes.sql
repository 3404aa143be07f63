-- Statements about changes of stored tasks: the tasks themselves, their pushes, costs, events and audit entries.

-- name: save_tasks
-- Updates the changed columns of tasks, given as each task's id and the new values.
WITH updated (id, :columns) AS (
    VALUES (?, :placeholders)
)
UPDATE tasks
SET :assignments
FROM updated
WHERE tasks.id = updated.id;

-- name: tasks_by_token
-- Reads the tasks of a group of callbacks, and whether pushes of each await confirmation.
SELECT tasks.*, EXISTS (
    SELECT 1
    FROM pushes
    WHERE pushes.outcome = 'pending'
      AND pushes.task_id = tasks.id
) AS has_pending
FROM tasks
WHERE token_hash IN (:many);

-- name: insert_push
-- Stores a push as received, without its body if its event has it.
INSERT INTO pushes (id, task_id, source, headers, body, digest, received_at, outcome)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: set_push_outcome
-- Sets the outcome of an earlier push.
UPDATE pushes
SET outcome = ?
WHERE task_id = ?
  AND id = ?;

-- name: save_cost
-- Stores the cost of a task. The more complete report replaces the other; of two equally complete ones the later wins.
INSERT INTO costs (task_id, at, charges, raw)
VALUES (?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE
SET charges = excluded.charges, raw = excluded.raw
WHERE (SELECT COUNT(*) FROM json_each(excluded.charges)) >= (SELECT COUNT(*) FROM json_each(costs.charges));

-- name: delete_redundant_pushes
-- Limits the stored pushes that changed nothing, so that a flood of them does not fill the disk. Pending pushes are
-- excluded: one of them may be the only link to Kling's task.
DELETE FROM pushes
WHERE rowid IN (
    SELECT rowid
    FROM pushes
    WHERE task_id = ?
      AND outcome NOT IN ('applied', 'pending')
    ORDER BY id DESC
    LIMIT -1 OFFSET ?
);

-- name: pending_pushes
-- Reads the pushes of some tasks that await confirmation.
SELECT *
FROM pushes
WHERE outcome = 'pending'
  AND task_id IN (SELECT value FROM json_each(:ids))
ORDER BY id;

-- name: insert_event
-- Inserts an event.
INSERT INTO events (
    id, task_id, push_id, type, envelope, body, verified, created_at, decisions, archiving, archive_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_action
-- Inserts an audit entry.
INSERT INTO actions (at, actor, verb, subject, reason)
VALUES (?, ?, ?, ?, ?);
