-- Totals that survive a restart.

-- name: raise_total
-- Raises a total without a label.
INSERT INTO counters (name, label, total)
VALUES (:name, '', :total)
ON CONFLICT (name, label) DO UPDATE SET total = GREATEST(counters.total, excluded.total);
