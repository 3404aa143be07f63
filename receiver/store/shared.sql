-- The statements that SQLite and PostgreSQL run alike, by name. Those that differ are in sqlite/sql and postgres/sql.

-- name: release_idempotency_key
-- Takes the idempotency key from a task that Kling refused, so that the same request may be sent again.
UPDATE tasks
SET idempotency_key = NULL
WHERE id = :task_id;

-- name: request_digest
-- Reads the digest of the request that created a task.
SELECT digest
FROM request_digests
WHERE task_id = :task_id;

-- name: intent
-- Reads the body a task was submitted with.
SELECT body
FROM intents
WHERE task_id = :task_id;

-- name: close_batch
-- Closes an open batch.
UPDATE batches
SET closed_at = :now
WHERE name = :name
  AND closed_at IS NULL;

-- name: finish_batch
-- Marks a batch as finished and sets its event, unless it is already finished.
UPDATE batches
SET finished_at = :now, event_id = :event_id
WHERE name = :name
  AND closed_at IS NOT NULL
  AND finished_at IS NULL;

-- name: queued_creates
-- Lists the queued tasks of gateway clients.
SELECT *
FROM tasks
WHERE state = 'queued'
  AND origin = 'gateway'
ORDER BY id;

-- name: due_routes
-- Finds when the next delivery of each route is due. It skips from route to route in the index instead of reading
-- the backlog, so a backlog of a million costs no more than one of ten.
WITH RECURSIVE waiting (route) AS (
    SELECT MIN(route)
    FROM deliveries
    WHERE status = 'pending'
    UNION ALL
    SELECT (
        SELECT MIN(deliveries.route)
        FROM deliveries
        WHERE deliveries.status = 'pending'
          AND deliveries.route > waiting.route
    )
    FROM waiting
    WHERE waiting.route IS NOT NULL
)
SELECT
    waiting.route,
    (
        SELECT MIN(deliveries.due_at)
        FROM deliveries
        WHERE deliveries.status = 'pending'
          AND deliveries.route = waiting.route
    ) AS due_at
FROM waiting
WHERE waiting.route IS NOT NULL;

-- name: suspect_deliveries
-- Finds the pending deliveries that were in flight at several deaths of the process, the least suspected first.
SELECT id, route
FROM deliveries
WHERE status = 'pending'
  AND unfinished_claims >= :at_least
ORDER BY unfinished_claims, due_at, id;

-- name: route_states
-- Reads the state of every route.
SELECT *
FROM routes;

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

-- name: replay_high_water_mark
-- Finds the newest delivery and the newest event.
SELECT
    (SELECT MAX(id) FROM deliveries) AS delivery,
    (SELECT MAX(id) FROM events) AS event;

-- name: advance_replay
-- Advances a running replay, if its cursor is unchanged.
UPDATE replays
SET cursor = :after, created = created + :made, state = :state, finished_at = :finished_at
WHERE id = :id
  AND state = 'running'
  AND cursor = :before;

-- name: cancel_replay
-- Cancels a running replay.
UPDATE replays
SET state = 'cancelled', finished_at = :now
WHERE id = :id
  AND state = 'running';

-- name: replay
-- Reads a replay.
SELECT *
FROM replays
WHERE id = :id;

-- name: running_replays
-- Lists the running replays, oldest first.
SELECT *
FROM replays
WHERE state = 'running'
ORDER BY id;

-- name: list_replays
-- Lists replays, newest first.
SELECT *
FROM replays
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT :limit;

-- name: task_by_id
-- Finds a task by our id.
SELECT *
FROM tasks
WHERE id = :ref;

-- name: task_by_kling_id
-- Finds the newest task by Kling's id.
SELECT *
FROM tasks
WHERE kling_id = :ref
ORDER BY id DESC
LIMIT 1;

-- name: task_by_external_id
-- Finds the newest task by the client's own id.
SELECT *
FROM tasks
WHERE external_task_id = :ref
ORDER BY id DESC
LIMIT 1;

-- name: pushes_of_task
-- Lists the pushes of a task, oldest first.
SELECT *
FROM whole_pushes
WHERE task_id = :task_id
ORDER BY id;

-- name: event
-- Reads an event.
SELECT *
FROM events
WHERE id = :id;

-- name: delivery
-- Reads a delivery with its event's type and task id.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE deliveries.id = :id;

-- name: attempts_of_delivery
-- Lists the attempts of a delivery, oldest first.
SELECT *
FROM attempts
WHERE delivery_id = :delivery_id
ORDER BY number;

-- name: backlog
-- Counts the pending deliveries of each route and finds the oldest.
SELECT waiting.route, waiting.pending, deliveries.created_at AS oldest
FROM (
    SELECT route, COUNT(*) AS pending, MIN(id) AS oldest_id
    FROM deliveries
    WHERE status = 'pending'
    GROUP BY route
) AS waiting
JOIN deliveries ON deliveries.id = waiting.oldest_id
ORDER BY waiting.route;

-- name: count_dead_deliveries
-- Counts the deliveries of each route that died lately and were not delivered again.
SELECT dead.route, COUNT(*) AS dead
FROM deliveries AS dead
WHERE dead.status = 'dead'
  AND dead.finished_at >= :since
  AND NOT EXISTS (
      SELECT 1
      FROM deliveries AS later
      WHERE later.event_id = dead.event_id
        AND later.route = dead.route
        AND later.id > dead.id
  )
GROUP BY dead.route
ORDER BY dead.route;

-- name: open_alert
-- Finds the open alert of a topic about a subject.
SELECT *
FROM alerts
WHERE topic = :topic
  AND subject = :subject
  AND closed_at IS NULL;

-- name: save_alert
-- Inserts an alert, or updates it after another report.
INSERT INTO alerts (
    id, topic, subject, type, message, remedy, cause, level, event_id, opened_at, last_seen_at, times,
    acknowledged_at, acknowledged_by, note
)
VALUES (
    :id, :topic, :subject, :type, :message, :remedy, :cause, :level, :event_id, :opened_at, :last_seen_at, :times,
    :acknowledged_at, :acknowledged_by, :note
)
ON CONFLICT (id) DO UPDATE
SET type = excluded.type, message = excluded.message, remedy = excluded.remedy, cause = excluded.cause,
    level = excluded.level, event_id = excluded.event_id, last_seen_at = excluded.last_seen_at,
    times = excluded.times, acknowledged_at = excluded.acknowledged_at, acknowledged_by = excluded.acknowledged_by,
    note = excluded.note;

-- name: delete_alerts
-- Deletes alerts that closed long ago.
DELETE FROM alerts
WHERE id IN (SELECT id FROM alerts WHERE closed_at < :before ORDER BY closed_at LIMIT :limit);

-- name: last_report
-- Reads the last daily report.
SELECT *
FROM reports
ORDER BY day DESC
LIMIT 1;

-- name: insert_report
-- Stores that the report of a day was made, unless it was.
INSERT INTO reports (day, event_id, created_at, callbacks_missed)
VALUES (:day, :event_id, :at, :callbacks_missed)
ON CONFLICT (day) DO NOTHING;

-- name: delete_old_reports
-- Keeps the last reports alone.
DELETE FROM reports
WHERE day <= (SELECT day FROM reports ORDER BY day DESC LIMIT 1 OFFSET 31);

-- name: count_ends
-- Counts the tasks that ended in a period, by their event's type. Ids sort by age.
SELECT type, COUNT(*) AS number
FROM events
WHERE id >= :first
  AND id < :last
  AND type IN ('task.succeed', 'task.failed', 'task.rejected', 'task.expired')
GROUP BY type;

-- name: trace
-- Reads the trace of a task.
SELECT traceparent
FROM traces
WHERE task_id = :task_id;

-- name: old_intents
-- Reads a page of intents by age, with whether each is old and no longer needed for a submit.
SELECT
    intents.task_id AS id,
    tasks.created_at < :before AS is_old,
    tasks.state NOT IN ('queued', 'submitting') AS is_free,
    LENGTH(intents.body) AS weight
FROM intents
JOIN tasks ON tasks.id = intents.task_id
WHERE intents.task_id > :after
ORDER BY intents.task_id
LIMIT :limit;

-- name: delete_actions
-- Deletes old audit entries.
DELETE FROM actions
WHERE seq IN (SELECT seq FROM actions WHERE at < :before ORDER BY seq LIMIT :limit);

-- name: delete_replays
-- Deletes replays that ended long ago.
DELETE FROM replays
WHERE id IN (SELECT id FROM replays WHERE finished_at < :before ORDER BY id LIMIT :limit);

-- name: delete_batches
-- Deletes old batches without tasks.
DELETE FROM batches
WHERE id IN (
    SELECT batches.id
    FROM batches
    WHERE COALESCE(batches.finished_at, batches.created_at) < :before
      AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.batch = batches.name)
    ORDER BY batches.id
    LIMIT :limit
);

-- name: make_all_archiving_due
-- Makes events due for archiving now that would be due later.
UPDATE events
SET archive_at = :now
WHERE archive_at > :now;

-- name: make_all_archiving_deliveries_due
-- Makes all deliveries due that waited for files, when archiving is turned off.
UPDATE deliveries
SET due_at = :now
WHERE event_id IN (SELECT id FROM events WHERE archiving = 'awaited' AND archive_at IS NOT NULL)
  AND status = 'pending'
  AND claim IS NULL
  AND attempts = 0
  AND due_at > :now;

-- name: abandon_all_archiving
-- Ends the archiving of all events.
UPDATE events
SET archiving = NULL, archive_at = NULL
WHERE archive_at IS NOT NULL;

-- name: totals
-- Reads the totals that survive a restart.
SELECT name, label, total
FROM counters;

-- name: durations
-- Lists the durations of past tasks, the kind that changed longest ago first.
SELECT kind, samples
FROM durations
ORDER BY updated_at, kind;

-- name: trim_durations
-- Deletes the durations of all kinds but the *keep* that changed last.
DELETE FROM durations
WHERE kind NOT IN (
    SELECT kind
    FROM durations
    ORDER BY updated_at DESC, kind
    LIMIT :keep
);

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

-- name: delete_kept_costs
-- Deletes the costs of deleted tasks once they are old.
DELETE FROM deleted_costs
WHERE task_id IN (SELECT task_id FROM deleted_costs WHERE at < :before ORDER BY at LIMIT :limit);

-- name: removals
-- Lists the files and objects still to be removed.
SELECT place, task_id
FROM removals;

-- name: nth_task
-- Finds the task that is a number of tasks before a cursor, the lower end of a window, and the next one.
SELECT id
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT 2 OFFSET :size;

-- name: nth_event
-- Finds the event that is a number of events before a cursor, the lower end of a window, and the next one.
SELECT id
FROM events
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT 2 OFFSET :size;

-- name: nth_delivery
-- Finds the delivery that is a number of deliveries before a cursor, the lower end of a window, and the next one.
SELECT id
FROM deliveries
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT 2 OFFSET :size;

-- name: search_deliveries
-- Lists the deliveries of a window that match, with their event's type and task id, newest first.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE TRUE
  AND deliveries.id < :cursor -- if cursor
  AND deliveries.id >= :low -- if low
  AND deliveries.status = 'dead' -- if only_dead
  AND deliveries.status = :status -- if status
  AND deliveries.attempts > 0 -- if attempted
  AND deliveries.route = :route -- if route
ORDER BY deliveries.id DESC
LIMIT :limit;

-- name: console_session
-- Reads a session of the console that has not expired.
SELECT role, name, expires_at, notice
FROM console_sessions
WHERE key = :key
  AND expires_at > :now;

-- name: has_console_session
-- Looks for a session by its key.
SELECT 1
FROM console_sessions
WHERE key = :key;

-- name: trim_console_sessions
-- Deletes the sessions of a role but those that expire last.
DELETE FROM console_sessions
WHERE role = :role
  AND key NOT IN (
    SELECT key
    FROM console_sessions
    WHERE role = :role
    ORDER BY expires_at DESC, key
    LIMIT :kept
);

-- name: insert_console_session
-- Stores a session.
INSERT INTO console_sessions (key, role, name, expires_at, notice)
VALUES (:key, :role, :name, :expires_at, :notice);

-- name: renew_console_session
-- Lets a session expire later.
UPDATE console_sessions
SET expires_at = :expires_at
WHERE key = :key
  AND expires_at < :expires_at;

-- name: set_console_notice
-- Sets what the next page of a session shows.
UPDATE console_sessions
SET notice = :notice
WHERE key = :key;

-- name: delete_console_session
-- Ends a session.
DELETE FROM console_sessions
WHERE key = :key;

-- name: delete_expired_sessions
-- Deletes sessions that have expired.
DELETE FROM console_sessions
WHERE expires_at <= :now;

-- name: trim_console_links
-- Deletes the one-time links but those that expire last.
DELETE FROM console_links
WHERE key NOT IN (
    SELECT key
    FROM console_links
    ORDER BY expires_at DESC, key
    LIMIT :kept
);

-- name: insert_console_link
-- Stores a one-time link.
INSERT INTO console_links (key, role, name, expires_at)
VALUES (:key, :role, :name, :expires_at);

-- name: has_console_link
-- Looks for a one-time link by its key.
SELECT 1
FROM console_links
WHERE key = :key;

-- name: redeem_link
-- Deletes a one-time link that has not expired. Two requests for one link never both get its row.
DELETE FROM console_links
WHERE key = :key
  AND expires_at > :now
RETURNING role, name;

-- name: delete_expired_links
-- Deletes one-time links that have expired.
DELETE FROM console_links
WHERE expires_at <= :now;
