-- Statements about changes of stored tasks: the tasks themselves, their pushes, costs, events and audit entries.

-- name: lock_tasks
-- Reads and locks the tasks of a group of changes, in one order on all nodes. Tokens are written in hexadecimal.
-- The weaker lock suffices: it does not block the check of a reference to the task.
SELECT *
FROM tasks
WHERE FALSE
   OR id = ANY(:ids) -- if ids
   OR token_hash = ANY(ARRAY(SELECT decode(token, 'hex') FROM unnest(:tokens::text[]) AS token)) -- if tokens
ORDER BY id
FOR NO KEY UPDATE;

-- name: pending_pushes
-- Reads the pushes of some tasks that await confirmation.
SELECT *
FROM pushes
WHERE outcome = 'pending'
  AND task_id = ANY(:ids)
ORDER BY id;

-- name: save_tasks
-- Updates some columns of tasks, given as the tasks' ids and the new values.
UPDATE tasks
SET :assignments
FROM unnest(:arrays) AS changed (id, :columns)
WHERE tasks.id = changed.id;

-- name: insert_push
-- Stores pushes as received, each without its body if its event has it.
INSERT INTO pushes (id, task_id, source, headers, body, digest, received_at, outcome)
SELECT *
FROM unnest(
    :id::text[], :task_id::text[], :source::text[], :headers::text[], :body::bytea[], :digest::bytea[],
    :received_at::bigint[], :outcome::text[]
);

-- name: set_push_outcome
-- Sets the outcomes of earlier pushes.
UPDATE pushes
SET outcome = resolved.outcome
FROM unnest(:outcome::text[], :task_id::text[], :id::text[]) AS resolved (outcome, task_id, id)
WHERE pushes.task_id = resolved.task_id
  AND pushes.id = resolved.id;

-- name: delete_redundant_pushes
-- Limits the stored pushes that changed nothing, so that a flood of them does not fill the disk. Pending pushes are
-- excluded: one of them may be the only link to Kling's task.
DELETE FROM pushes
WHERE task_id = :task_id
  AND id IN (
      SELECT redundant.id
      FROM pushes AS redundant
      WHERE redundant.task_id = :task_id
        AND redundant.outcome NOT IN ('applied', 'pending')
      ORDER BY redundant.id DESC
      OFFSET :keep
  );

-- name: save_cost
-- Stores the cost of a task. The more complete report replaces the other; of two equally complete ones the later wins.
INSERT INTO costs (task_id, at, charges, raw)
VALUES (:task_id, :at, :charges, :raw)
ON CONFLICT (task_id) DO UPDATE
SET charges = excluded.charges, raw = excluded.raw
WHERE (SELECT COUNT(*) FROM json_object_keys(excluded.charges::json))
   >= (SELECT COUNT(*) FROM json_object_keys(costs.charges::json));

-- name: insert_event
-- Inserts events, in this order.
INSERT INTO events (
    id, task_id, push_id, type, envelope, body, verified, created_at, decisions, archiving, archive_at
)
SELECT *
FROM unnest(
    :id::text[], :task_id::text[], :push_id::text[], :type::text[], :envelope::bytea[], :body::bytea[],
    :verified::text[], :created_at::bigint[], :decisions::text[], :archiving::text[], :archive_at::bigint[]
);

-- name: insert_action
-- Inserts audit entries.
INSERT INTO actions (at, actor, verb, subject, reason)
SELECT *
FROM unnest(:at::bigint[], :actor::text[], :verb::text[], :subject::text[], :reason::text[]);
