-- The traces of tasks.

-- name: save_trace
-- Stores the trace of a task, unless it has one.
INSERT INTO traces (task_id, traceparent)
VALUES (?, ?)
ON CONFLICT (task_id) DO NOTHING;
