-- Deletion of single tasks on request.

-- name: count_rows_of_task
-- Counts what is stored about a task, and says whether its batch is unfinished, and open.
SELECT
    (SELECT COUNT(*) FROM pushes WHERE task_id = :task_id) AS pushes,
    (SELECT COUNT(*) FROM events WHERE task_id = :task_id) AS events,
    (SELECT COUNT(*) FROM events WHERE task_id = :task_id AND archiving IS NOT NULL) AS archiving,
    (
        SELECT COUNT(*)
        FROM events
        JOIN deliveries ON deliveries.event_id = events.id
        WHERE events.task_id = :task_id
    ) AS deliveries,
    (
        SELECT COUNT(*)
        FROM events
        JOIN deliveries ON deliveries.event_id = events.id
        WHERE events.task_id = :task_id
          AND deliveries.status = 'pending'
    ) AS pending_deliveries,
    EXISTS (SELECT 1 FROM batches WHERE name = :batch AND finished_at IS NULL) AS is_batch_unfinished,
    EXISTS (SELECT 1 FROM batches WHERE name = :batch AND closed_at IS NULL) AS is_batch_open;

-- name: asset_places
-- Lists where the archived results of a task are.
SELECT assets.path, assets.storage
FROM events
JOIN assets ON assets.event_id = events.id
WHERE events.task_id = :task_id
ORDER BY events.id, assets.number;

-- name: removals
-- Lists the files and objects still to be removed.
SELECT place, task_id
FROM removals;
