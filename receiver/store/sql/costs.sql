-- What tasks cost. Amounts are exact decimals as text.

-- name: cost
-- Reads the cost of a task.
SELECT charges, raw
FROM costs
WHERE task_id = :task_id;

-- name: succeeded_charges
-- Reads the tasks that succeeded in a period, and their costs. Their ids are at most :first old.
SELECT tasks.id, tasks.kling_id, tasks.endpoint, tasks.state, events.created_at AS updated_at, costs.charges
FROM tasks
JOIN events ON events.task_id = tasks.id AND events.type = 'task.succeed'
LEFT JOIN costs ON costs.task_id = tasks.id
WHERE tasks.id >= :first
  AND tasks.id < :last
  AND tasks.state = 'succeed'
  AND tasks.kling_id IS NOT NULL
  AND events.created_at >= :since
  AND events.created_at < :until
ORDER BY tasks.id;

-- name: correct_kept_cost
-- Stores the charges of a deleted task in the units of Kling's ledgers.
UPDATE deleted_costs
SET charges = :charges
WHERE task_id = :task_id;

-- name: bill_checked_until
-- Reads until when the daily check compared Kling's ledgers.
SELECT checked_until
FROM bill_checks;
