-- A signed end replaces an end that only an unsigned push reported. Such a task has two final events.
ALTER TABLE tasks ADD COLUMN is_end_unverified INTEGER NOT NULL DEFAULT 0 CHECK (
    is_end_unverified = 0 OR is_end_unverified = 1 AND state IN ('succeed', 'failed')
);

DROP TRIGGER tasks_end_is_final;

-- Kling's final state of a task never changes, except from an unverified to a verified one.
CREATE TRIGGER tasks_end_is_final BEFORE UPDATE OF state, is_end_unverified ON tasks
WHEN OLD.state IN ('succeed', 'failed')
 AND (NEW.state <> OLD.state OR NEW.is_end_unverified <> OLD.is_end_unverified)
 AND NOT (OLD.is_end_unverified AND NOT NEW.is_end_unverified AND NEW.state IN ('succeed', 'failed'))
BEGIN
    SELECT RAISE(ABORT, 'a task never leaves succeed or failed');
END;

DROP INDEX events_one_end;

CREATE UNIQUE INDEX events_one_end ON events (task_id, verified = 'none') WHERE type IN ('task.succeed', 'task.failed');
