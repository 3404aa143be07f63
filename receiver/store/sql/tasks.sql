-- Statements about tasks: new ones, the submit queue and the poll schedule.

-- name: release_idempotency_key
-- Takes the idempotency key from a task that Kling refused, so that the same request may be sent again.
UPDATE tasks
SET idempotency_key = NULL
WHERE id = :task_id
  AND state = 'rejected';

-- name: request_digest
-- Reads the digest of the request that created a task.
SELECT digest
FROM request_digests
WHERE task_id = :task_id;

-- name: intent
-- Reads the body a task was submitted with.
SELECT body
FROM intents
WHERE task_id = :task_id;

-- name: queued_creates
-- Lists the queued tasks of gateway clients.
SELECT *
FROM tasks
WHERE state = 'queued'
  AND origin = 'gateway'
ORDER BY id;
