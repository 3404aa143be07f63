-- Totals that survive a restart.

-- name: totals
-- Reads the totals that survive a restart.
SELECT name, label, total
FROM counters;

-- name: raise_total
-- Raises a total without a label.
INSERT INTO counters (name, label, total)
VALUES (:name, '', :total)
ON CONFLICT (name, label) DO UPDATE SET total = GREATEST(counters.total, excluded.total);
