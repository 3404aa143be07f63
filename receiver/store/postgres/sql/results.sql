-- Results of tasks, to show and download them.

-- name: result_of_task
-- Reads an archived result of a task by its number. A later event replaces an earlier one.
SELECT assets.*
FROM events
JOIN assets ON assets.event_id = events.id AND assets.number = :number
WHERE events.task_id = :task_id
ORDER BY events.id DESC
LIMIT 1;

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
  AND CAST(tasks.tags AS jsonb) @> CAST(:tags AS jsonb) -- if tags
ORDER BY found.task_id DESC, found.id DESC
LIMIT :limit;

-- name: end_of_results_search
-- Reads the last task that `list_results` searches.
SELECT task_id
FROM events
WHERE type IN ('task.succeed', 'task.failed')
  AND task_id < :cursor -- if cursor
  AND task_id >= :first -- if first
  AND task_id < :last -- if last
  AND task_id IN (SELECT tasks.id FROM tasks WHERE tasks.batch = :batch) -- if batch
ORDER BY task_id DESC
LIMIT 1 OFFSET :searched - 1;

-- name: results_of_tasks
-- Reads the successes of some tasks, newest task first.
SELECT id, task_id, created_at, envelope, body
FROM events
WHERE type = 'task.succeed'
  AND task_id = ANY(:ids)
ORDER BY task_id DESC, id DESC;
