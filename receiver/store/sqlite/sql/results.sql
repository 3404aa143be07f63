-- Results of tasks, to show and download them.

-- name: list_results
-- Lists successes, newest task first, among the first tasks of the list alone: a rare tag must not cost a long search.
SELECT found.*
FROM (
    SELECT id, task_id, type, created_at, envelope, body
    FROM events
    WHERE type IN ('task.succeed', 'task.failed')
      AND task_id < :cursor -- if cursor
      AND task_id >= :first -- if first
      AND task_id < :last -- if last
      AND task_id IN (SELECT tasks.id FROM tasks WHERE tasks.batch = :batch) -- if batch
    ORDER BY task_id DESC
    LIMIT :searched
) AS found
JOIN tasks ON tasks.id = found.task_id
WHERE found.type = 'task.succeed'
  AND tasks.origin <> :left_out -- if left_out
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
ORDER BY found.task_id DESC, found.id DESC
LIMIT :limit;

-- name: results_of_tasks
-- Reads the successes of some tasks, newest task first.
SELECT id, task_id, created_at, envelope, body
FROM events
WHERE type IN ('task.succeed', 'task.failed')
  AND type = 'task.succeed'
  AND task_id IN (SELECT value FROM json_each(:ids))
ORDER BY task_id DESC, id DESC;
