-- Totals that must survive a restart and the deletion of old data. `label` is a route or a unit, or empty.
CREATE TABLE counters (
    name TEXT NOT NULL CHECK (name IN ('callbacks_missed', 'deliveries_dead', 'spent')),
    label TEXT NOT NULL,
    total REAL NOT NULL CHECK (total >= 0),
    PRIMARY KEY (name, label)
) STRICT, WITHOUT ROWID;

-- What happened before this table existed.
INSERT INTO counters (name, label, total)
SELECT 'deliveries_dead', CASE WHEN route LIKE 'reply:%' THEN 'reply' ELSE route END, COUNT(*)
FROM deliveries
WHERE status = 'dead'
GROUP BY 2;

INSERT INTO counters (name, label, total)
SELECT 'spent', charge.key, SUM(MAX(0.0, CAST(charge.value AS REAL)))
FROM costs
JOIN json_each(costs.charges) AS charge
GROUP BY charge.key;

CREATE TRIGGER deliveries_count_dead AFTER UPDATE OF status ON deliveries
WHEN NEW.status = 'dead'
BEGIN
    INSERT INTO counters (name, label, total)
    VALUES ('deliveries_dead', CASE WHEN NEW.route LIKE 'reply:%' THEN 'reply' ELSE NEW.route END, 1)
    ON CONFLICT (name, label) DO UPDATE SET total = total + 1;
END;

-- A counter never falls, so a correction to a lower amount is not subtracted.
CREATE TRIGGER costs_count_spent AFTER INSERT ON costs
BEGIN
    INSERT INTO counters (name, label, total)
    SELECT 'spent', charge.key, MAX(0.0, CAST(charge.value AS REAL))
    FROM json_each(NEW.charges) AS charge
    WHERE TRUE
    ON CONFLICT (name, label) DO UPDATE SET total = total + excluded.total;
END;

-- A later report replaces the amounts of an earlier one.
CREATE TRIGGER costs_recount_spent AFTER UPDATE OF charges ON costs
BEGIN
    INSERT INTO counters (name, label, total)
    SELECT 'spent', charge.key, MAX(0.0, CAST(charge.value AS REAL) - COALESCE((
        SELECT CAST(earlier.value AS REAL)
        FROM json_each(OLD.charges) AS earlier
        WHERE earlier.key = charge.key
    ), 0.0))
    FROM json_each(NEW.charges) AS charge
    WHERE TRUE
    ON CONFLICT (name, label) DO UPDATE SET total = total + excluded.total;
END;
