-- Totals that survive a restart.

-- name: raise_total
-- Raises a total without a label.
INSERT INTO counters (name, label, total)
VALUES (?, '', ?)
ON CONFLICT (name, label) DO UPDATE SET total = MAX(total, excluded.total);
