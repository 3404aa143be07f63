-- What tasks cost. Amounts are exact decimals as text.

-- name: count_costs
-- Counts tasks by name and charges. The program multiplies and adds, so that both stores round in the same way.
SELECT priced.name, priced.charges, COUNT(*) AS times
FROM (
    SELECT
        costs.charges,
        CAST(tasks.tags AS json) ->> CAST(:tag AS text) AS name -- if tag
        tasks.endpoint AS name -- if endpoint
        tasks.label AS name -- if label
        tasks.batch AS name -- if batch
        to_char(to_timestamp(costs.at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS name -- if day
    FROM costs
    JOIN tasks ON tasks.id = costs.task_id -- if joined
    WHERE TRUE
      AND costs.at >= :since
      AND costs.at < :until
    UNION ALL
    SELECT
        kept.charges,
        CAST(kept.tags AS json) ->> CAST(:tag AS text) AS name -- if tag
        kept.endpoint AS name -- if endpoint
        kept.label AS name -- if label
        kept.batch AS name -- if batch
        to_char(to_timestamp(kept.at / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS name -- if day
    FROM deleted_costs AS kept
    WHERE kept.charges IS NOT NULL
      AND kept.at >= :since
      AND kept.at < :until
) AS priced
GROUP BY priced.name, priced.charges;

-- name: cost_counts
-- Counts the tasks of whole UTC days by name and charges. The name of a group by day is the day.
SELECT
    CASE WHEN counts.grouping = 'day' THEN to_char(DATE '1970-01-01' + counts.day, 'YYYY-MM-DD') ELSE counts.name END
        AS name,
    counts.charges,
    SUM(counts.tasks)::bigint AS times
FROM cost_counts AS counts
WHERE counts.grouping = :grouping
  AND counts.day >= :first
  AND counts.day < :last
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
    JOIN tasks ON tasks.id = newest.task_id
    JOIN intents ON intents.task_id = newest.task_id
    WHERE tasks.endpoint = :endpoint
)
SELECT sized.charges, intents.body
FROM sized
JOIN intents ON intents.task_id = sized.task_id
WHERE sized.total <= :max_bytes
ORDER BY sized.task_id DESC
LIMIT :limit;

-- name: own_charges
-- Reads the tasks with one of Kling's ids, and their costs; also those of deleted tasks.
SELECT tasks.id, tasks.kling_id, tasks.endpoint, tasks.state, tasks.updated_at, costs.charges
FROM tasks
LEFT JOIN costs ON costs.task_id = tasks.id
WHERE tasks.kling_id = ANY(:kling_ids)
UNION ALL
SELECT deleted.task_id, deleted.kling_id, deleted.endpoint, deleted.state, deleted.at, deleted.charges
FROM deleted_costs AS deleted
WHERE deleted.kling_id = ANY(:kling_ids);

-- name: correct_cost
-- Stores the charges of a task in the units of Kling's ledgers.
INSERT INTO costs (task_id, at, charges, raw)
SELECT id, CAST(:now AS bigint), CAST(:charges AS text), '{}'
FROM tasks
WHERE id = :task_id
ON CONFLICT (task_id) DO UPDATE
SET charges = excluded.charges;

-- name: save_bill_check
-- Stores until when the daily check compared Kling's ledgers.
INSERT INTO bill_checks ("only", checked_until)
VALUES (1, :until)
ON CONFLICT ("only") DO UPDATE
SET checked_until = GREATEST(bill_checks.checked_until, excluded.checked_until);
