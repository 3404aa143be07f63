-- Results of tasks, to show and download them.

-- name: result_of_task
-- Reads an archived result of a task by its number. A later event replaces an earlier one.
SELECT assets.*
FROM events
JOIN assets ON assets.event_id = events.id AND assets.number = :number
WHERE events.task_id = :task_id
ORDER BY events.id DESC
LIMIT 1;

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
