-- What tasks cost. Amounts are exact decimals as text.

-- name: cost_counts
-- Counts the tasks of whole UTC days by name and charges. The name of a group by day is the day.
SELECT
    iif(grouping = 'day', date(day * 86400, 'unixepoch'), name) AS name,
    charges,
    SUM(tasks) AS times
FROM cost_counts
WHERE grouping = :grouping
  AND day >= :first
  AND day < :last
GROUP BY 1, 2;

-- name: newest_charges
-- Reads the charges and the bodies of an endpoint's tasks among the newest ones with a cost, newest first. Bodies with
-- pictures are large, so their sum is limited.
WITH newest (task_id, charges) AS (
    SELECT task_id, charges
    FROM costs
    ORDER BY task_id DESC
    LIMIT :searched
),
sized (task_id, charges, total) AS (
    SELECT newest.task_id, newest.charges, SUM(LENGTH(intents.body)) OVER (ORDER BY newest.task_id DESC)
    FROM newest
    CROSS JOIN tasks ON tasks.id = newest.task_id
    CROSS JOIN intents ON intents.task_id = newest.task_id
    WHERE tasks.endpoint = :endpoint
)
SELECT sized.charges, intents.body
FROM sized
CROSS JOIN intents ON intents.task_id = sized.task_id
WHERE sized.total <= :max_bytes
ORDER BY sized.task_id DESC
LIMIT :limit;

-- name: count_costs
-- Counts the tasks of parts of days by name and charges, from the tasks themselves.
WITH priced AS (
    SELECT
        costs.charges,
        (SELECT tag.value FROM json_each(tasks.tags) AS tag WHERE tag.key = :tag) AS name -- if tag
        tasks.endpoint AS name -- if endpoint
        tasks.label AS name -- if label
        tasks.batch AS name -- if batch
        date(costs.at / 1000000, 'unixepoch') AS name -- if day
    FROM costs
    JOIN tasks ON tasks.id = costs.task_id -- if joined
    WHERE costs.at >= :since
      AND costs.at < :until
    UNION ALL
    SELECT
        kept.charges,
        (SELECT tag.value FROM json_each(kept.tags) AS tag WHERE tag.key = :tag) AS name -- if tag
        kept.endpoint AS name -- if endpoint
        kept.label AS name -- if label
        kept.batch AS name -- if batch
        date(kept.at / 1000000, 'unixepoch') AS name -- if day
    FROM deleted_costs AS kept
    WHERE kept.charges IS NOT NULL
      AND kept.at >= :since
      AND kept.at < :until
)
SELECT name, charges, COUNT(*) AS times
FROM priced
GROUP BY name, charges;

-- name: own_charges
-- Reads the tasks with one of Kling's ids, and their costs; also those of deleted tasks.
SELECT tasks.id, tasks.kling_id, tasks.endpoint, tasks.state, tasks.updated_at, costs.charges
FROM json_each(:kling_ids) AS wanted
JOIN tasks ON tasks.kling_id = wanted.value
LEFT JOIN costs ON costs.task_id = tasks.id
UNION ALL
SELECT deleted.task_id, deleted.kling_id, deleted.endpoint, deleted.state, deleted.at, deleted.charges
FROM json_each(:kling_ids) AS wanted
JOIN deleted_costs AS deleted ON deleted.kling_id = wanted.value;

-- name: correct_cost
-- Stores the charges of a task in the units of Kling's ledgers.
INSERT INTO costs (task_id, at, charges, raw)
SELECT id, :now, :charges, '{}'
FROM tasks
WHERE id = :task_id
ON CONFLICT (task_id) DO UPDATE
SET charges = excluded.charges;

-- name: save_bill_check
-- Stores until when the daily check compared Kling's ledgers.
INSERT INTO bill_checks (only, checked_until)
VALUES (1, :until)
ON CONFLICT (only) DO UPDATE
SET checked_until = MAX(checked_until, excluded.checked_until);
