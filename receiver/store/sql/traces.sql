-- The traces of tasks.

-- name: trace
-- Reads the trace of a task.
SELECT traceparent
FROM traces
WHERE task_id = :task_id;
