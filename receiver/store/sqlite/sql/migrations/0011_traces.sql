-- The trace of a task's submit, as W3C `traceparent`, so that a later process continues it. Empty without tracing.
CREATE TABLE traces (
    task_id TEXT PRIMARY KEY NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    traceparent TEXT NOT NULL CHECK (length(traceparent) = 55)
) STRICT, WITHOUT ROWID;
