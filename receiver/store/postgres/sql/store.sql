-- Statements about the whole store.

-- name: take_transaction_id
-- Takes the id of a transaction: one without an id commits without a write, and so without a proof that it can write.
SELECT pg_current_xact_id()::text;

-- name: lock_event_order
-- Takes the lock of the trigger `events_order` earlier, so that every transaction takes its locks in one order.
SELECT pg_advisory_xact_lock(hashtext('kling-receiver events'));

-- name: lock_sessions
-- Lets one transaction at a time delete several sessions or links.
SELECT pg_advisory_xact_lock(hashtext('kling-receiver sessions'));

-- name: lock_retention
-- Lets one transaction at a time delete old data.
SELECT pg_advisory_xact_lock(hashtext('kling-receiver retention'));

-- name: lock_durations
-- Lets one transaction at a time replace durations.
SELECT pg_advisory_xact_lock(hashtext('kling-receiver durations'));

-- name: newest_id
-- Finds the newest id, so that new ids are newer even if the clock was set back. Ids sort by age without their prefix.
-- The last pages of pushes have the last commits. Their place is computed once, in a query of its own, or all are read.
SELECT MAX(split_part(id, '_', 2)) AS newest
FROM (
    SELECT MAX(id) AS id FROM tasks
    UNION ALL
    SELECT MAX(id)
    FROM pushes
    WHERE ctid >= (
        SELECT ('(' || GREATEST(pg_relation_size('pushes') / current_setting('block_size')::bigint - 64, 0) || ',0)')::tid
    )
    UNION ALL
    SELECT MAX(id) FROM events
    UNION ALL
    SELECT MAX(id) FROM deliveries
) AS ids;

-- name: stats
-- Counts the rows of every kind, for the operator.
SELECT 'tasks.' || CASE WHEN end_reason = 'cancelled' THEN 'cancelled' ELSE state END AS name, COUNT(*) AS number
FROM tasks
GROUP BY 1
UNION ALL
SELECT 'batches', COUNT(*) FROM batches
UNION ALL
SELECT 'pushes.' || outcome, COUNT(*) FROM pushes GROUP BY outcome
UNION ALL
SELECT 'events', COUNT(*) FROM events
UNION ALL
SELECT 'deliveries.' || status, COUNT(*) FROM deliveries GROUP BY status
UNION ALL
SELECT 'attempts', COUNT(*) FROM attempts
UNION ALL
SELECT 'assets', COUNT(*) FROM assets;

-- name: database_size
-- Measures the bytes of the database.
SELECT pg_database_size(current_database());
