-- How many tasks of one UTC day have the same charges: of all tasks, and per endpoint, label, batch and tag. Charges are
-- exact decimals, which the program multiplies and adds, as with SQLite. `day` counts from the epoch. No index has the
-- column `tasks`, so that a change of a count writes no index.
CREATE TABLE cost_counts (
    grouping TEXT COLLATE "C" NOT NULL,
    day INTEGER NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    charges TEXT COLLATE "C" NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (grouping, day, name, charges)
) WITH (fillfactor = 50);

-- Reads tags. One that is not storable as text must not make a push fail, so such a task counts as one without tags.
CREATE FUNCTION tags_of(tags TEXT) RETURNS TABLE (name TEXT, value TEXT) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT tag.key, tag.value FROM json_each_text(tags::json) AS tag;
EXCEPTION WHEN data_exception OR feature_not_supported THEN
    RETURN;
END
$$;

-- A cost that is added (1) or taken away (-1). Inserts into this view change the counts.
CREATE VIEW cost_changes AS
SELECT
    NULL::bigint AS at, NULL::text AS charges, NULL::text AS endpoint, NULL::text AS label, NULL::text AS batch,
    NULL::text AS tags, NULL::integer AS change;

-- The order of rows is the same in every transaction.
CREATE FUNCTION count_cost() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.charges IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO cost_counts AS counts (grouping, day, name, charges, tasks)
    SELECT named.grouping, NEW.at / 86400000000, named.name, NEW.charges, NEW.change
    FROM (
        VALUES ('day', ''), ('endpoint', NEW.endpoint), ('label', NEW.label), ('batch', NEW.batch)
        UNION ALL
        SELECT 'tag:' || tag.name, tag.value FROM tags_of(NEW.tags) AS tag
    ) AS named (grouping, name)
    WHERE named.name IS NOT NULL
    ORDER BY named.grouping COLLATE "C", named.name COLLATE "C"
    ON CONFLICT (grouping, day, name, charges) DO UPDATE SET tasks = counts.tasks + excluded.tasks;
    IF NEW.change < 0 THEN
        DELETE FROM cost_counts AS counts
        WHERE counts.day = NEW.at / 86400000000
          AND counts.charges = NEW.charges
          AND counts.tasks = 0
          AND (counts.grouping IN ('day', 'endpoint', 'label', 'batch')
               OR counts.grouping IN (SELECT 'tag:' || tag.name FROM tags_of(NEW.tags) AS tag));
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER cost_changes_count INSTEAD OF INSERT ON cost_changes
FOR EACH ROW
EXECUTE FUNCTION count_cost();

-- Transactions that store costs commit one after the other, as those that store events. Both change rows that all nodes
-- change, and in this way never wait for each other in a circle.
CREATE TRIGGER costs_order BEFORE INSERT OR UPDATE ON costs
FOR EACH STATEMENT
EXECUTE FUNCTION lock_event_order();

CREATE FUNCTION count_cost_of_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO cost_changes
        SELECT OLD.at, OLD.charges, endpoint, label, batch, tags, -1 FROM tasks WHERE id = OLD.task_id;
    END IF;
    INSERT INTO cost_changes
    SELECT NEW.at, NEW.charges, endpoint, label, batch, tags, 1 FROM tasks WHERE id = NEW.task_id;
    RETURN NULL;
END
$$;

CREATE TRIGGER costs_add_to_counts AFTER INSERT ON costs
FOR EACH ROW
EXECUTE FUNCTION count_cost_of_task();

CREATE TRIGGER costs_change_counts AFTER UPDATE OF charges ON costs
FOR EACH ROW WHEN (OLD.charges <> NEW.charges)
EXECUTE FUNCTION count_cost_of_task();

-- A task's cost is deleted with it, by cascade, when its endpoint and tags are no longer there.
CREATE FUNCTION count_changed_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO cost_changes
    SELECT at, charges, OLD.endpoint, OLD.label, OLD.batch, OLD.tags, -1 FROM costs WHERE task_id = OLD.id;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    INSERT INTO cost_changes
    SELECT at, charges, NEW.endpoint, NEW.label, NEW.batch, NEW.tags, 1 FROM costs WHERE task_id = NEW.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER tasks_change_counts AFTER UPDATE OF endpoint, label, batch, tags ON tasks
FOR EACH ROW WHEN (
    (OLD.endpoint, OLD.label, OLD.batch, OLD.tags) IS DISTINCT FROM (NEW.endpoint, NEW.label, NEW.batch, NEW.tags)
)
EXECUTE FUNCTION count_changed_task();

CREATE TRIGGER tasks_leave_counts BEFORE DELETE ON tasks
FOR EACH ROW
EXECUTE FUNCTION count_changed_task();

CREATE FUNCTION count_deleted_cost() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO cost_changes
        VALUES (OLD.at, OLD.charges, OLD.endpoint, OLD.label, OLD.batch, OLD.tags, -1);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO cost_changes
        VALUES (NEW.at, NEW.charges, NEW.endpoint, NEW.label, NEW.batch, NEW.tags, 1);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER deleted_costs_change_counts AFTER INSERT OR UPDATE OR DELETE ON deleted_costs
FOR EACH ROW
EXECUTE FUNCTION count_deleted_cost();

-- The costs from before this table existed.
INSERT INTO cost_changes
SELECT costs.at, costs.charges, tasks.endpoint, tasks.label, tasks.batch, tasks.tags, 1
FROM costs
JOIN tasks ON tasks.id = costs.task_id;

INSERT INTO cost_changes
SELECT at, charges, endpoint, label, batch, tags, 1
FROM deleted_costs;
