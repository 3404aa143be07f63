-- Alerts are few among many events. A start reads the newest ones, to know what was reported already.
CREATE INDEX events_alerts ON events (id) WHERE type >= 'alert.' AND type < 'alert/';

-- How many tasks of one UTC day have the same charges: of all tasks, and per endpoint, label, batch and tag. Charges are
-- exact decimals, which the database cannot add; it counts them, and the program multiplies. `day` counts from the epoch.
CREATE TABLE cost_counts (
    grouping TEXT NOT NULL,
    day INTEGER NOT NULL,
    name TEXT NOT NULL,
    charges TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (grouping, day, name, charges)
) STRICT, WITHOUT ROWID;

CREATE INDEX cost_counts_empty ON cost_counts (tasks) WHERE tasks = 0;

-- A cost that is added (1) or taken away (-1). Inserts into this view change the counts.
CREATE VIEW cost_changes (at, charges, endpoint, label, batch, tags, change) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL;

CREATE TRIGGER cost_changes_count INSTEAD OF INSERT ON cost_changes
WHEN NEW.charges IS NOT NULL
BEGIN
    INSERT INTO cost_counts (grouping, day, name, charges, tasks)
    SELECT grouping, NEW.at / 86400000000, name, NEW.charges, NEW.change
    FROM (
        SELECT 'day' AS grouping, '' AS name
        UNION ALL SELECT 'endpoint', NEW.endpoint
        UNION ALL SELECT 'label', NEW.label
        UNION ALL SELECT 'batch', NEW.batch
        UNION ALL SELECT 'tag:' || tag.key, tag.value FROM json_each(NEW.tags) AS tag
    )
    WHERE name IS NOT NULL
    ON CONFLICT (grouping, day, name, charges) DO UPDATE SET tasks = tasks + excluded.tasks;
    DELETE FROM cost_counts WHERE tasks = 0;
END;

CREATE TRIGGER costs_add_to_counts AFTER INSERT ON costs
BEGIN
    INSERT INTO cost_changes
    SELECT NEW.at, NEW.charges, endpoint, label, batch, tags, 1 FROM tasks WHERE id = NEW.task_id;
END;

CREATE TRIGGER costs_change_counts AFTER UPDATE OF charges ON costs
WHEN OLD.charges <> NEW.charges
BEGIN
    INSERT INTO cost_changes
    SELECT OLD.at, OLD.charges, endpoint, label, batch, tags, -1 FROM tasks WHERE id = NEW.task_id;
    INSERT INTO cost_changes
    SELECT NEW.at, NEW.charges, endpoint, label, batch, tags, 1 FROM tasks WHERE id = NEW.task_id;
END;

CREATE TRIGGER tasks_change_counts AFTER UPDATE OF endpoint, label, batch, tags ON tasks
BEGIN
    INSERT INTO cost_changes
    SELECT at, charges, OLD.endpoint, OLD.label, OLD.batch, OLD.tags, -1 FROM costs WHERE task_id = OLD.id;
    INSERT INTO cost_changes
    SELECT at, charges, NEW.endpoint, NEW.label, NEW.batch, NEW.tags, 1 FROM costs WHERE task_id = NEW.id;
END;

-- A task's cost is deleted with it, by cascade, when its endpoint and tags are no longer there.
CREATE TRIGGER tasks_leave_counts BEFORE DELETE ON tasks
BEGIN
    INSERT INTO cost_changes
    SELECT at, charges, OLD.endpoint, OLD.label, OLD.batch, OLD.tags, -1 FROM costs WHERE task_id = OLD.id;
END;

CREATE TRIGGER deleted_costs_add_to_counts AFTER INSERT ON deleted_costs
BEGIN
    INSERT INTO cost_changes
    VALUES (NEW.at, NEW.charges, NEW.endpoint, NEW.label, NEW.batch, NEW.tags, 1);
END;

CREATE TRIGGER deleted_costs_change_counts AFTER UPDATE ON deleted_costs
BEGIN
    INSERT INTO cost_changes
    VALUES (OLD.at, OLD.charges, OLD.endpoint, OLD.label, OLD.batch, OLD.tags, -1);
    INSERT INTO cost_changes
    VALUES (NEW.at, NEW.charges, NEW.endpoint, NEW.label, NEW.batch, NEW.tags, 1);
END;

CREATE TRIGGER deleted_costs_leave_counts AFTER DELETE ON deleted_costs
BEGIN
    INSERT INTO cost_changes
    VALUES (OLD.at, OLD.charges, OLD.endpoint, OLD.label, OLD.batch, OLD.tags, -1);
END;

-- The costs from before this table existed.
INSERT INTO cost_changes
SELECT costs.at, costs.charges, tasks.endpoint, tasks.label, tasks.batch, tasks.tags, 1
FROM costs
JOIN tasks ON tasks.id = costs.task_id;

INSERT INTO cost_changes
SELECT at, charges, endpoint, label, batch, tags, 1
FROM deleted_costs;
