-- Every statement the store runs, by name. A line that ends in `-- if NAME` is left out unless that argument is given.
-- A list of unknown length is one JSON argument, read by json_each; bytes, which JSON cannot hold, come as `:many`.


-- name: insert_task
-- Stores a new task.
INSERT INTO tasks (
    id, origin, state, created_at, updated_at, token_hash, endpoint, label, tags, idempotency_key, kling_id,
    external_task_id, reply_to, message, heard, pack, weight, attempts, asks, hollow, surplus, started_at, asked_at,
    due_at, expires_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: save_task
-- Replaces a task's row after it was judged; what never changes in a task's life is not written again.
UPDATE tasks
SET state = ?, updated_at = ?, token_hash = ?, endpoint = ?, label = ?, tags = ?, kling_id = ?,
    external_task_id = ?, reply_to = ?, message = ?, heard = ?, pack = ?, weight = ?, attempts = ?, asks = ?,
    hollow = ?, surplus = ?, started_at = ?, asked_at = ?, due_at = ?, expires_at = ?
WHERE id = ?;

-- name: tasks_by_id
-- Reads the tasks a group of changes is about.
SELECT *
FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: tasks_by_token
-- Reads the tasks that callbacks speak of.
SELECT *
FROM tasks
WHERE token_hash IN (:many);

-- name: token_is_live
-- Tells whether a callback that came in by a token would find a task.
SELECT EXISTS (
    SELECT 1
    FROM tasks
    WHERE token_hash = :token_hash
      AND (expires_at IS NULL OR expires_at > :now)
) AS is_live;

-- name: tasks_by_key
-- Reads the tasks that were asked for before under the same idempotency keys.
SELECT *
FROM tasks
WHERE idempotency_key IN (SELECT value FROM json_each(:keys));

-- name: save_intent
-- Keeps the body a task was asked for with.
INSERT INTO intents (task_id, body)
VALUES (?, ?)
ON CONFLICT (task_id) DO UPDATE SET body = excluded.body;

-- name: intent
-- Gives the body a task was asked for with.
SELECT body
FROM intents
WHERE task_id = :task_id;

-- name: due_tasks
-- Finds the tasks in one state that have been due the longest, leaving out some packs.
SELECT *
FROM tasks
WHERE state = :state
  AND due_at <= :now
  AND COALESCE(pack, '') NOT IN (SELECT value FROM json_each(:without)) -- if without
ORDER BY due_at, id
LIMIT :limit;

-- name: postpone_tasks
-- Keeps claimed tasks from being claimed again before *until*.
UPDATE tasks
SET due_at = :until
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: next_task_due
-- Tells the next moment for the tasks in some states: one step into the index for each state.
SELECT MIN(due_at) AS due_at
FROM (
    SELECT (
        SELECT MIN(due_at)
        FROM tasks
        WHERE state = wanted.value
          AND due_at IS NOT NULL
          AND COALESCE(pack, '') NOT IN (SELECT value FROM json_each(:without)) -- if without
    ) AS due_at
    FROM json_each(:states) AS wanted
);

-- name: occupancy
-- Counts the slots that running tasks take, by pack.
SELECT pack, SUM(weight) AS slots
FROM tasks
WHERE state IN ('submitting', 'submitted', 'processing')
  AND pack IS NOT NULL
GROUP BY pack;

-- name: insert_push
-- Keeps a push as it came.
INSERT INTO pushes (id, task_id, source, headers, body, digest, received_at, outcome)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: settle_push
-- Gives an earlier push its outcome.
UPDATE pushes
SET outcome = ?
WHERE id = ?;

-- name: forget_pushes
-- Bounds what is kept of the pushes that changed nothing, so that a flood of them does not fill the disk.
DELETE FROM pushes
WHERE id IN (
    SELECT id
    FROM pushes
    WHERE task_id = ?
      AND outcome <> 'settled'
    ORDER BY id DESC
    LIMIT -1 OFFSET ?
);

-- name: pending_pushes
-- Reads the pushes of some tasks that await confirmation.
SELECT *
FROM pushes
WHERE outcome = 'pending'
  AND task_id IN (SELECT value FROM json_each(:ids))
ORDER BY id;

-- name: insert_event
-- Stores an event.
INSERT INTO events (id, task_id, push_id, type, envelope, body, verified, created_at, decisions)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_delivery
-- Promises an event to a route, once; a replay is a promise of its own.
INSERT INTO deliveries (
    id, event_id, route, status, created_at, due_at, attempts, probes, unfinished, claim, replay_of, finished_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id, route) WHERE replay_of IS NULL DO NOTHING;

-- name: due_routes
-- Tells for each route when its next delivery falls due. Skips from route to route in the index instead of
-- reading all that waits: a backlog of a million costs no more than one of ten.
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

-- name: due_deliveries
-- Finds the deliveries of a route that have been due the longest, with all their sender needs.
SELECT
    deliveries.*,
    events.task_id AS event_task_id,
    events.push_id AS event_push_id,
    events.type AS event_type,
    events.envelope AS event_envelope,
    events.body AS event_body,
    events.verified AS event_verified,
    events.created_at AS event_created_at,
    tasks.reply_to
FROM deliveries
JOIN events ON events.id = deliveries.event_id
LEFT JOIN tasks ON tasks.id = events.task_id
WHERE deliveries.status = 'pending'
  AND deliveries.route = :route
  AND deliveries.due_at <= :now -- if now
  AND (deliveries.claim IS NULL OR deliveries.due_at <= :early) -- if early
ORDER BY deliveries.due_at, deliveries.id
LIMIT :limit;

-- name: claim_deliveries
-- Puts deliveries under a claim; without a verdict they fall due again at the lease's end.
UPDATE deliveries
SET claim = :claim, due_at = :until, unfinished = unfinished + 1
WHERE status = 'pending'
  AND id IN (SELECT value FROM json_each(:ids));

-- name: claims
-- Tells under whose claim deliveries are.
SELECT id, claim
FROM deliveries
WHERE status = 'pending'
  AND claim IS NOT NULL
  AND id IN (SELECT value FROM json_each(:ids));

-- name: finish_delivery
-- Writes the verdict on a delivery that is still under the claim.
UPDATE deliveries
SET status = ?, due_at = ?, finished_at = ?, attempts = ?, probes = probes + ?, unfinished = 0, claim = NULL
WHERE id = ?
  AND claim = ?
  AND status = 'pending';

-- name: release_delivery
-- Gives a claimed delivery back untried.
UPDATE deliveries
SET due_at = ?, unfinished = MAX(0, unfinished - 1), claim = NULL
WHERE id = ?
  AND claim = ?
  AND status = 'pending';

-- name: release_all
-- Makes everything claimed due again, for when whoever claimed it is gone.
UPDATE deliveries
SET due_at = :now, claim = NULL
WHERE status = 'pending'
  AND claim IS NOT NULL;

-- name: hasten
-- Makes what was tried before in a route due as of its creation, which is what the untried are due by: all go out by
-- age. The untried, which may be a million, are not touched.
UPDATE deliveries
SET due_at = MIN(created_at, :now)
WHERE status = 'pending'
  AND attempts > 0
  AND claim IS NULL
  AND route = :route;

-- name: insert_attempt
-- Records one try at a delivery.
INSERT INTO attempts (delivery_id, number, started_at, duration, outcome, code, reason, excerpt)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: forget_attempts
-- Bounds the history of one delivery, so that a destination that is down for weeks does not fill the disk.
DELETE FROM attempts
WHERE delivery_id = ?
  AND number <= ?;

-- name: route_states
-- Reads what is remembered about every route.
SELECT *
FROM routes;

-- name: save_route
-- Remembers a route's state.
INSERT INTO routes (name, failures, held_at, held_by, held_why, probe_at, released_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE
SET failures = excluded.failures, held_at = excluded.held_at, held_by = excluded.held_by,
    held_why = excluded.held_why, probe_at = excluded.probe_at, released_at = excluded.released_at;

-- name: insert_action
-- Writes down what a person did.
INSERT INTO actions (at, actor, verb, subject, note)
VALUES (?, ?, ?, ?, ?);

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

-- name: list_tasks
-- Lists tasks, newest first.
SELECT *
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
  AND state IN (SELECT value FROM json_each(:states)) -- if states
  AND endpoint = :endpoint -- if endpoint
  AND label = :label -- if label
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
ORDER BY id DESC
LIMIT :limit;

-- name: pushes_of_task
-- Gives all that arrived about a task, oldest first.
SELECT *
FROM pushes
WHERE task_id = :task_id
ORDER BY id;

-- name: event
-- Finds an event.
SELECT *
FROM events
WHERE id = :id;

-- name: list_events
-- Lists events, newest first.
SELECT *
FROM events
WHERE TRUE
  AND id < :cursor -- if cursor
  AND task_id = :task_id -- if task_id
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY id DESC
LIMIT :limit;

-- name: events_after
-- Lists the events that were committed after a known one, in that order; where the known one is gone, after its age.
SELECT *
FROM events
WHERE seq > COALESCE((SELECT known.seq FROM events AS known WHERE known.id <= :after ORDER BY known.id DESC LIMIT 1), 0)
  AND task_id = :task_id -- if task_id
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY seq
LIMIT :limit;

-- name: delivery
-- Finds a delivery, with its event's type and task.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE deliveries.id = :id;

-- name: list_deliveries
-- Lists deliveries with their event's type and task, newest first.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE TRUE
  AND deliveries.id < :cursor -- if cursor
  AND deliveries.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
  AND deliveries.route = :route -- if route
  AND deliveries.event_id = :event_id -- if event_id
  AND events.task_id = :task_id -- if task_id
ORDER BY deliveries.id DESC
LIMIT :limit;

-- name: attempts_of_delivery
-- Gives a delivery's attempts, oldest first.
SELECT *
FROM attempts
WHERE delivery_id = :delivery_id
ORDER BY number;

-- name: backlog
-- Tells what waits in each route, and since when.
SELECT waiting.route, waiting.pending, deliveries.created_at AS oldest
FROM (
    SELECT route, COUNT(*) AS pending, MIN(id) AS oldest_id
    FROM deliveries
    WHERE status = 'pending'
    GROUP BY route
) AS waiting
JOIN deliveries ON deliveries.id = waiting.oldest_id
ORDER BY waiting.route;

-- name: list_actions
-- Tells what people did, newest first.
SELECT *
FROM actions
WHERE TRUE
  AND subject IN (SELECT value FROM json_each(:subjects)) -- if subjects
ORDER BY seq DESC
LIMIT :limit;

-- name: stats
-- Counts the rows of every kind, for a person who looks after the store.
SELECT 'tasks.' || state AS name, COUNT(*) AS number FROM tasks GROUP BY state
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
