-- Totals that survive a restart.

-- name: totals
-- Reads the totals that survive a restart.
SELECT name, label, total
FROM counters;
