-- The statements for SQLite, by name. Those that PostgreSQL runs alike are in store/shared.sql.
-- A list of variable length is one JSON argument, read by json_each. JSON cannot hold bytes, so those use `:many`.

-- name: insert_task
-- Inserts a new task: the columns that never change, then the others.
INSERT INTO tasks (
    id, origin, created_at, batch, idempotency_key, priority, fair_share, state, updated_at, token_hash, endpoint,
    label, tags, kling_id, external_task_id, reply_to, message, kling_state, end_reason, is_end_unverified, slot_key,
    weight, attempts, poll_count, empty_result_count, redundant_push_count, started_at, polled_at, push_poll_at,
    stuck_at, due_at, expires_at, client_callbacks
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: save_tasks
-- Updates the changed columns of tasks, given as each task's id and the new values.
WITH updated (id, :columns) AS (
    VALUES (?, :placeholders)
)
UPDATE tasks
SET :assignments
FROM updated
WHERE tasks.id = updated.id;

-- name: tasks_by_id
-- Reads the tasks of a group of changes.
SELECT *
FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: tasks_by_token
-- Reads the tasks of a group of callbacks.
SELECT *
FROM tasks
WHERE token_hash IN (:many);

-- name: has_live_token
-- Checks whether an unexpired task has a token.
SELECT EXISTS (
    SELECT 1
    FROM tasks
    WHERE token_hash = :token_hash
      AND (expires_at IS NULL OR expires_at > :now)
) AS is_live;

-- name: has_verified_event
-- Checks whether a signature or the API has verified anything about a task.
SELECT EXISTS (
    SELECT 1
    FROM events
    WHERE task_id = :task_id
      AND verified IN ('signature', 'api')
) AS is_verified;

-- name: tasks_by_idempotency_key
-- Reads the tasks with some idempotency keys.
SELECT *
FROM tasks
WHERE idempotency_key IN (SELECT value FROM json_each(:keys));

-- name: insert_request_digest
-- Stores the digest of a request with an idempotency key.
INSERT INTO request_digests (task_id, digest)
VALUES (?, ?);

-- name: save_intent
-- Stores the body of a submit.
INSERT INTO intents (task_id, body)
VALUES (?, ?)
ON CONFLICT (task_id) DO UPDATE SET body = excluded.body;

-- name: intents
-- Reads the bodies of submits.
SELECT task_id, body
FROM intents
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: due_tasks
-- Finds the longest due tasks in one state, optionally of some endpoints only.
SELECT *
FROM tasks
WHERE state = :state
  AND due_at <= :now
  AND endpoint IN (SELECT value FROM json_each(:endpoints)) -- if endpoints
ORDER BY due_at, id
LIMIT :limit;

-- name: tasks_due_after_push
-- Finds the longest due tasks among those whose next poll a push caused.
SELECT *
FROM tasks INDEXED BY tasks_due_after_push
WHERE push_poll_at IS NOT NULL
  AND (polled_at IS NULL OR polled_at < push_poll_at)
  AND due_at <= :now
  AND state IN (SELECT value FROM json_each(:states))
ORDER BY due_at, id
LIMIT :limit;

-- name: postpone_tasks
-- Prevents another claim of claimed tasks before *until*.
UPDATE tasks
SET due_at = :until
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: make_tasks_due
-- Makes tasks due that are due before a moment: at once, or *min_gap* after their last poll.
UPDATE tasks
SET due_at = MIN(due_at, CASE WHEN polled_at <= :now THEN MAX(:now, polled_at + :min_gap) ELSE :now END)
WHERE state IN (SELECT value FROM json_each(:states))
  AND due_at > :now
  AND due_at <= :before;

-- name: next_task_due
-- Finds the next due time of the tasks in some states, with one index step per state.
SELECT MIN(due_at) AS due_at
FROM (
    SELECT (
        SELECT MIN(due_at)
        FROM tasks
        WHERE state = wanted.value
          AND due_at IS NOT NULL
          AND due_at > :after -- if after
    ) AS due_at
    FROM json_each(:states) AS wanted
);

-- name: slots_in_use
-- Reads the slots that running tasks use, by slot key: all, and those of tasks that are not still submitting.
WITH used (slot_key, submitting, confirmed) AS (
    SELECT slot_key, submitting, confirmed
    FROM running_slots
    WHERE slot_key <> ''
    UNION ALL -- if absent
    SELECT slot_key, -weight, 0 -- if absent
    FROM tasks -- if absent
    WHERE state = 'submitting' -- if absent
      AND slot_key <> '' -- if absent
      AND id IN (SELECT value FROM json_each(:absent)) -- if absent
)
SELECT slot_key, SUM(submitting + confirmed) AS slots, SUM(confirmed) AS confirmed
FROM used
GROUP BY slot_key
HAVING slots > 0;

-- name: batches_by_name
-- Reads the batches of new tasks.
SELECT *
FROM batches
WHERE name IN (SELECT value FROM json_each(:names));

-- name: save_batch
-- Inserts a batch, or updates its size, its number of tasks and its closing.
INSERT INTO batches (name, id, size, task_count, created_at, closed_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE
SET size = excluded.size, task_count = excluded.task_count, closed_at = excluded.closed_at;

-- name: complete_batches
-- Finds closed, unfinished batches whose tasks and archiving have all ended.
-- It runs at each end of a task, so it starts from the unfinished tasks and the events in archiving, which are few.
SELECT *
FROM batches
WHERE closed_at IS NOT NULL
  AND finished_at IS NULL
  AND name = :name -- if name
  AND NOT EXISTS (
      SELECT 1
      FROM tasks INDEXED BY tasks_unfinished_in_batch
      WHERE tasks.batch = batches.name
        AND tasks.state IN ('awaiting', 'queued', 'submitting', 'submitted', 'processing')
  )
  AND NOT EXISTS (
      SELECT 1
      FROM events
      CROSS JOIN tasks ON tasks.id = events.task_id
      WHERE events.archive_at IS NOT NULL
        AND events.archiving = 'awaited'
        AND tasks.batch = batches.name
  )
ORDER BY name
LIMIT :limit;

-- name: batch_states
-- Counts the tasks of some batches by state; those that an operator cancelled once more.
SELECT batch, state, COUNT(*) AS tasks
FROM tasks
WHERE batch IN (SELECT value FROM json_each(:names))
GROUP BY batch, state
UNION ALL
SELECT batch, 'cancelled' AS state, COUNT(*) AS tasks
FROM tasks
WHERE batch IN (SELECT value FROM json_each(:names))
  AND state = 'rejected'
  AND end_reason = 'cancelled'
GROUP BY batch;

-- name: finished_batch_tasks
-- Reads the first tasks of a batch, each with the event of its current state.
SELECT tasks.*, events.envelope, events.body
FROM tasks
LEFT JOIN events ON events.seq = (
    SELECT latest.seq
    FROM events AS latest
    WHERE latest.task_id = tasks.id
      AND latest.type = 'task.' || tasks.state
    ORDER BY latest.id DESC
    LIMIT 1
)
WHERE tasks.batch = :name
ORDER BY tasks.id
LIMIT :limit;

-- name: list_batches
-- Lists batches, newest first.
SELECT *
FROM batches
WHERE TRUE
  AND name = :name -- if name
  AND id < :cursor -- if cursor
  AND IIF(closed_at IS NULL, 'open', IIF(finished_at IS NULL, 'closed', 'finished')) IN ( -- if states
      SELECT value FROM json_each(:states) -- if states
  ) -- if states
ORDER BY id DESC
LIMIT :limit;

-- name: next_queued_tasks
-- Finds the next queued tasks of each slot key, at most *limit* of each, in the order in which they are sent. All have
-- the key's highest priority. A task in *head_ids* is first. The others go by the slots that their share uses, with
-- those of the tasks before them. Ties go to the share served least recently.
-- It skips from key to key and from share to share in the index, so the number of tasks in a share does not matter.
WITH RECURSIVE slot_keys (slot_key) AS (
    SELECT MIN(slot_key)
    FROM tasks
    WHERE state = 'queued'
    UNION ALL
    SELECT (
        SELECT MIN(tasks.slot_key)
        FROM tasks
        WHERE tasks.state = 'queued'
          AND tasks.slot_key > slot_keys.slot_key
    )
    FROM slot_keys
    WHERE slot_keys.slot_key IS NOT NULL
),
top_priorities (slot_key, priority) AS MATERIALIZED (
    SELECT
        slot_keys.slot_key,
        (
            SELECT tasks.priority
            FROM tasks
            WHERE tasks.state = 'queued'
              AND tasks.slot_key = slot_keys.slot_key
              AND tasks.due_at <= :now
            ORDER BY tasks.priority DESC
            LIMIT 1
        )
    FROM slot_keys
    WHERE slot_keys.slot_key IS NOT NULL
),
shares (slot_key, priority, fair_share) AS (
    SELECT
        top_priorities.slot_key,
        top_priorities.priority,
        (
            SELECT MIN(tasks.fair_share)
            FROM tasks
            WHERE tasks.state = 'queued'
              AND tasks.slot_key = top_priorities.slot_key
              AND tasks.priority = top_priorities.priority
        )
    FROM top_priorities
    WHERE top_priorities.priority IS NOT NULL
    UNION ALL
    SELECT
        shares.slot_key,
        shares.priority,
        (
            SELECT MIN(tasks.fair_share)
            FROM tasks
            WHERE tasks.state = 'queued'
              AND tasks.slot_key = shares.slot_key
              AND tasks.priority = shares.priority
              AND tasks.fair_share > shares.fair_share
        )
    FROM shares
    WHERE shares.fair_share IS NOT NULL
),
share_use (slot_key, priority, fair_share, slots_in_use, served_at) AS MATERIALIZED (
    SELECT
        shares.slot_key,
        shares.priority,
        shares.fair_share,
        (
            SELECT COALESCE(SUM(running_slots.submitting + running_slots.confirmed), 0)
            FROM running_slots
            WHERE running_slots.slot_key = shares.slot_key
              AND running_slots.fair_share = shares.fair_share
        ),
        (
            SELECT COALESCE(MAX(tasks.started_at), 0)
            FROM tasks
            WHERE tasks.started_at IS NOT NULL
              AND tasks.slot_key = shares.slot_key
              AND tasks.fair_share = shares.fair_share
        )
    FROM shares
    WHERE shares.fair_share IS NOT NULL
      AND EXISTS (
          SELECT 1
          FROM tasks
          WHERE tasks.state = 'queued'
            AND tasks.slot_key = shares.slot_key
            AND tasks.priority = shares.priority
            AND tasks.fair_share = shares.fair_share
            AND tasks.due_at <= :now
      )
),
next_shares (slot_key, priority, fair_share, slots_in_use, served_at, place) AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY slot_key ORDER BY slots_in_use, served_at)
    FROM share_use
),
candidates (slot_key, id, is_head, slots_in_use, place, served_at) AS MATERIALIZED (
    SELECT
        next_shares.slot_key,
        tasks.id,
        0,
        next_shares.slots_in_use + COALESCE(SUM(tasks.weight) OVER (
            share ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0),
        ROW_NUMBER() OVER share,
        next_shares.served_at
    FROM next_shares
    CROSS JOIN tasks
    WHERE next_shares.place <= :limit
      AND tasks.id IN (
          SELECT queued.id
          FROM tasks AS queued
          WHERE queued.state = 'queued'
            AND queued.slot_key = next_shares.slot_key
            AND queued.priority = next_shares.priority
            AND queued.fair_share = next_shares.fair_share
            AND queued.due_at <= :now
          ORDER BY queued.due_at, queued.id
          LIMIT :limit
      )
    WINDOW share AS (PARTITION BY next_shares.slot_key, next_shares.fair_share ORDER BY tasks.due_at, tasks.id)
    UNION ALL
    SELECT tasks.slot_key, tasks.id, 1, 0, 1, 0
    FROM json_each(:head_ids) AS head
    CROSS JOIN tasks
    CROSS JOIN top_priorities
    WHERE tasks.id = head.value
      AND top_priorities.slot_key = tasks.slot_key
      AND top_priorities.priority = tasks.priority
      AND tasks.state = 'queued'
      AND tasks.due_at <= :now
),
ranked (id, place) AS (
    SELECT
        id,
        ROW_NUMBER() OVER (PARTITION BY slot_key ORDER BY is_head DESC, slots_in_use, place, served_at, id)
    FROM candidates
),
next_tasks (id, place) AS (
    SELECT id, MIN(place)
    FROM ranked
    WHERE place <= :limit
    GROUP BY id
)
SELECT tasks.*, COALESCE(LENGTH(intents.body), 0) AS body_size
FROM next_tasks
CROSS JOIN tasks
LEFT JOIN intents ON intents.task_id = tasks.id
WHERE tasks.id = next_tasks.id
ORDER BY tasks.priority DESC, next_tasks.place, tasks.id;

-- name: assign_fair_shares
-- Sets the fair share of queued and running tasks to the value of a tag.
WITH queued_or_running (id, tags) AS (
    SELECT id, tags
    FROM tasks
    WHERE state = 'queued'
    UNION ALL
    SELECT id, tags
    FROM tasks
    WHERE state IN ('submitting', 'submitted', 'processing')
),
assigned (id, fair_share) AS (
    SELECT id, COALESCE((SELECT value FROM json_each(queued_or_running.tags) WHERE key = :tag), '')
    FROM queued_or_running
)
UPDATE tasks
SET fair_share = assigned.fair_share
FROM assigned
WHERE tasks.id = assigned.id
  AND tasks.fair_share <> assigned.fair_share;

-- name: insert_push
-- Stores a push as received, without its body if its event has it.
INSERT INTO pushes (id, task_id, source, headers, body, digest, received_at, outcome)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: set_push_outcome
-- Sets the outcome of an earlier push.
UPDATE pushes
SET outcome = ?
WHERE task_id = ?
  AND id = ?;

-- name: save_cost
-- Stores the cost of a task. The more complete report replaces the other; of two equally complete ones the later wins.
INSERT INTO costs (task_id, at, charges, raw)
VALUES (?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE
SET charges = excluded.charges, raw = excluded.raw
WHERE (SELECT COUNT(*) FROM json_each(excluded.charges)) >= (SELECT COUNT(*) FROM json_each(costs.charges));

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

-- name: delete_redundant_pushes
-- Limits the stored pushes that changed nothing, so that a flood of them does not fill the disk. Pending pushes are
-- excluded: one of them may be the only link to Kling's task.
DELETE FROM pushes
WHERE rowid IN (
    SELECT rowid
    FROM pushes
    WHERE task_id = ?
      AND outcome NOT IN ('applied', 'pending')
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
-- Inserts an event.
INSERT INTO events (
    id, task_id, push_id, type, envelope, body, verified, created_at, decisions, archiving, archive_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_delivery
-- Inserts a delivery. Each event has one per route, apart from replays.
INSERT INTO deliveries (
    id, event_id, route, status, created_at, due_at, attempts, probes, unfinished_claims, claim, replay_of, finished_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id, route, (CASE WHEN replay_of IS NULL THEN '' ELSE id END)) DO NOTHING;

-- name: due_deliveries
-- Finds the longest due deliveries of a route, with everything their sender needs.
SELECT
    deliveries.id,
    deliveries.route,
    deliveries.created_at,
    deliveries.due_at,
    deliveries.attempts,
    deliveries.probes,
    deliveries.unfinished_claims,
    deliveries.replay_of,
    events.id,
    events.type,
    events.envelope,
    events.body,
    events.verified,
    events.created_at,
    events.task_id,
    events.push_id,
    tasks.reply_to
FROM deliveries
JOIN events ON events.id = deliveries.event_id
LEFT JOIN tasks ON tasks.id = events.task_id
WHERE deliveries.status = 'pending'
  AND deliveries.route = :route
  AND deliveries.due_at <= :now -- if now
  AND (deliveries.due_at <= :early OR deliveries.attempts > 0 AND deliveries.claim IS NULL) -- if early
  AND deliveries.id = :only -- if only
  AND deliveries.id NOT IN (SELECT value FROM json_each(:skip)) -- if skip
ORDER BY deliveries.due_at, deliveries.id
LIMIT :limit;

-- name: claim_deliveries
-- Claims deliveries. Without a verdict they are due again when the lease ends.
UPDATE deliveries
SET claim = :claim, due_at = :until
WHERE status = 'pending'
  AND id IN (SELECT value FROM json_each(:ids));

-- name: delivery_claims
-- Reads the claims of some deliveries.
SELECT id, claim
FROM deliveries
WHERE status = 'pending'
  AND claim IS NOT NULL
  AND id IN (SELECT value FROM json_each(:ids));

-- name: record_verdict
-- Stores the verdict on a delivery that still has the same claim.
WITH verdicts (id, claim, status, due_at, finished_at, attempts, probes) AS (
    VALUES (?, ?, ?, ?, ?, ?, ?)
)
UPDATE deliveries
SET status = verdicts.status, due_at = verdicts.due_at, finished_at = verdicts.finished_at,
    attempts = verdicts.attempts, probes = deliveries.probes + verdicts.probes, unfinished_claims = 0, claim = NULL
FROM verdicts
WHERE deliveries.id = verdicts.id
  AND deliveries.claim = verdicts.claim
  AND deliveries.status = 'pending';

-- name: release_delivery
-- Releases a claimed delivery without an attempt.
UPDATE deliveries
SET due_at = ?, claim = NULL
WHERE id = ?
  AND claim = ?
  AND status = 'pending';

-- name: release_all_deliveries
-- Makes every claimed delivery due, after the process that claimed them has died. The death counts in full against a
-- delivery that was alone in flight, and up to a limit against each of several.
UPDATE deliveries
SET due_at = :now, claim = NULL,
    unfinished_claims = MAX(unfinished_claims, CASE WHEN :alone THEN unfinished_claims + 1
                                                    ELSE MIN(unfinished_claims + 1, :limit_together) END)
WHERE status = 'pending'
  AND claim IS NOT NULL;

-- name: count_claimed_deliveries
-- Counts the claimed deliveries, up to two.
SELECT COUNT(*)
FROM (SELECT 1 FROM deliveries WHERE status = 'pending' AND claim IS NOT NULL LIMIT 2);

-- name: retry_route_now
-- Makes attempted deliveries of a route due at their creation time, like those without an attempt, so that all are
-- ordered by age. Those without an attempt, up to a million, are not changed.
UPDATE deliveries
SET due_at = MIN(created_at, :now)
WHERE status = 'pending'
  AND attempts > 0
  AND claim IS NULL
  AND route = :route;

-- name: bring_forward
-- Makes some deliveries due that have a later due time and no attempt, after the clock was set back. Those that wait
-- for files keep waiting, but no longer than allowed.
UPDATE deliveries
SET due_at = CASE
        WHEN EXISTS (SELECT 1 FROM events WHERE events.id = deliveries.event_id AND events.archiving = 'awaited')
        THEN :archive_wait_until
        ELSE :now
    END
WHERE id IN (
    SELECT ahead.id
    FROM deliveries AS ahead
    WHERE ahead.status = 'pending'
      AND ahead.route = :route
      AND ahead.due_at > :now
      AND ahead.attempts = 0
      AND ahead.claim IS NULL
      AND (
          ahead.due_at > :archive_wait_until
          OR NOT EXISTS (SELECT 1 FROM events WHERE events.id = ahead.event_id AND events.archiving = 'awaited')
      )
    ORDER BY ahead.due_at, ahead.id
    LIMIT :limit
);

-- name: insert_attempt
-- Inserts an attempt.
INSERT INTO attempts (delivery_id, number, started_at, duration, outcome, code, reason, excerpt)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: delete_oldest_attempts
-- Limits the attempts of one delivery, so that a destination that is down for weeks does not fill the disk.
DELETE FROM attempts
WHERE delivery_id = ?
  AND number <= ?;

-- name: save_route
-- Stores a route's state.
INSERT INTO routes (name, failures, held_at, held_by, held_why, probe_at, released_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE
SET failures = excluded.failures, held_at = excluded.held_at, held_by = excluded.held_by,
    held_why = excluded.held_why, probe_at = excluded.probe_at, released_at = excluded.released_at;

-- name: make_delivery_due
-- Makes a pending delivery due, unless an attempt is in progress.
UPDATE deliveries
SET due_at = MIN(due_at, :now)
WHERE id = :id
  AND status = 'pending'
  AND (claim IS NULL OR due_at <= :now);

-- name: deliveries_to_replay
-- Selects deliveries that had ended when a replay was requested, oldest first. Of each event it selects the newest per
-- route, or the newest of all routes if the replay has another target, so that no event is repeated twice to one route.
SELECT
    deliveries.id AS position,
    deliveries.event_id,
    COALESCE(:to_route, deliveries.route) AS route,
    deliveries.id AS replay_of,
    deliveries.status,
    deliveries.created_at,
    events.type AS event_type,
    events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE deliveries.status <> 'pending'
  AND deliveries.status = 'dead' -- if only_dead
  AND deliveries.finished_at <= :requested_at
  AND deliveries.id > :cursor
  AND deliveries.id <= :last
  AND deliveries.id IN (SELECT value FROM json_each(:deliveries)) -- if deliveries
  AND deliveries.event_id IN (SELECT value FROM json_each(:events)) -- if events
  AND events.task_id = :task_id -- if task_id
  AND deliveries.route = :route -- if route
  AND deliveries.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
  AND deliveries.created_at >= :since -- if since
  AND deliveries.created_at < :until -- if until
  AND (deliveries.route LIKE 'reply:%' OR deliveries.route IN (SELECT value FROM json_each(:known_routes))) -- if known_routes
  AND NOT EXISTS (
      SELECT 1
      FROM deliveries AS newer
      WHERE newer.event_id = deliveries.event_id
        AND newer.id > deliveries.id
        AND newer.id <= :last
        AND newer.status <> 'pending'
        AND newer.finished_at <= :requested_at
        AND newer.route = deliveries.route -- if same_route
        AND newer.route = :route -- if route
        AND newer.id IN (SELECT value FROM json_each(:deliveries)) -- if deliveries
        AND newer.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
        AND newer.created_at >= :since -- if since
        AND newer.created_at < :until -- if until
  )
ORDER BY deliveries.id
LIMIT :limit;

-- name: events_to_replay
-- Selects events for a route, oldest first, with the newest delivery of each to that route.
SELECT
    events.id AS position,
    events.id AS event_id,
    :to_route AS route,
    (SELECT MAX(id) FROM deliveries WHERE event_id = events.id AND route = :to_route) AS replay_of,
    NULL AS status,
    events.created_at,
    events.type AS event_type,
    events.task_id AS event_task_id
FROM events
WHERE events.id > :cursor
  AND events.id <= :last
  AND events.id IN (SELECT value FROM json_each(:events)) -- if events
  AND events.task_id = :task_id -- if task_id
  AND events.created_at >= :since -- if since
  AND events.created_at < :until -- if until
  AND IIF(type LIKE 'task.%', substr(type, 6), substr(type, 1, instr(type, '.') - 1)) IN ( -- if event_kinds
      SELECT value FROM json_each(:event_kinds) -- if event_kinds
  ) -- if event_kinds
ORDER BY events.id
LIMIT :limit;

-- name: count_replay_items
-- Counts the items of a replay by route and status.
SELECT route, status, COUNT(*) AS count, MIN(created_at) AS oldest, MAX(created_at) AS newest
FROM :items
GROUP BY route, status
ORDER BY route, status;

-- name: insert_replay
-- Inserts a replay.
INSERT INTO replays (
    id, state, selection, actor, why, last, total, created_at, rate_count, rate_per, cursor, created, finished_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_action
-- Inserts an audit entry.
INSERT INTO actions (at, actor, verb, subject, reason)
VALUES (?, ?, ?, ?, ?);

-- name: list_tasks
-- Lists tasks, newest first.
SELECT *
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
  AND id >= :since -- if since
  AND id < :until -- if until
  AND state IN (SELECT value FROM json_each(:states)) -- if states
  AND IIF(end_reason IS 'cancelled', 'cancelled', state) IN (SELECT value FROM json_each(:listed_states)) -- if listed_states
  AND endpoint = :endpoint -- if endpoint
  AND label = :label -- if label
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
ORDER BY id DESC
LIMIT :limit;

-- name: count_tasks
-- Counts tasks by state, from indexes alone unless a tag is given; those that an operator cancelled once more.
SELECT state, COUNT(*) AS tasks
FROM tasks
WHERE TRUE
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
GROUP BY state
UNION ALL
SELECT 'cancelled' AS state, COUNT(*) AS tasks
FROM tasks
WHERE state = 'rejected'
  AND end_reason = 'cancelled'
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
;

-- name: list_events
-- Lists events, newest first. Alerts have an index.
SELECT *
FROM events
WHERE TRUE
  AND type >= 'alert.' AND type < 'alert/' -- if only_alerts
  AND id < :cursor -- if cursor
  AND id >= :since -- if since
  AND id < :until -- if until
  AND task_id = :task_id -- if task_id
  AND task_id IN (SELECT tasks.id FROM tasks WHERE tasks.batch = :batch) -- if batch
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY id DESC
LIMIT :limit;

-- name: events_after
-- Lists the events committed after a known one, in that order. If the known one is deleted, its id gives the position.
SELECT *
FROM events
WHERE seq > COALESCE((SELECT known.seq FROM events AS known WHERE known.id <= :after ORDER BY known.id DESC LIMIT 1), 0)
  AND id >= :since -- if since
  AND id < :until -- if until
  AND task_id = :task_id -- if task_id
  AND task_id IN (SELECT tasks.id FROM tasks WHERE tasks.batch = :batch) -- if batch
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY seq
LIMIT :limit;

-- name: list_deliveries
-- Lists deliveries with their event's type and task id, newest first.
SELECT deliveries.*, events.type AS event_type, events.task_id AS event_task_id
FROM deliveries
JOIN events ON events.id = deliveries.event_id
WHERE TRUE
  AND deliveries.id < :cursor -- if cursor
  AND deliveries.id >= :since -- if since
  AND deliveries.id < :until -- if until
  AND deliveries.status IN (SELECT value FROM json_each(:statuses)) -- if statuses
  AND deliveries.route = :route -- if route
  AND deliveries.event_id = :event_id -- if event_id
  AND events.task_id = :task_id -- if task_id
ORDER BY deliveries.id DESC
LIMIT :limit;

-- name: acknowledge_alert
-- Acknowledges an open alert, and closes it if its topic is one of *closing*.
UPDATE alerts
SET acknowledged_at = :now, acknowledged_by = :actor, note = :note,
    closed_at = IIF(topic IN (SELECT value FROM json_each(:closing)), :now, NULL),
    closed_by = IIF(topic IN (SELECT value FROM json_each(:closing)), 'acknowledgement', NULL)
WHERE id = :id
  AND acknowledged_at IS NULL
  AND closed_at IS NULL;

-- name: close_alerts
-- Closes open alerts that recovered.
UPDATE alerts
SET closed_at = :now, closed_by = 'recovery'
WHERE id IN (SELECT value FROM json_each(:ids))
  AND closed_at IS NULL
RETURNING id;

-- name: ended_alerts
-- Finds open alerts whose cause has ended without an event of its own. A destination that rejected events works again
-- if one of the newest deliveries reached it since.
SELECT id
FROM alerts
WHERE closed_at IS NULL
  AND (
      topic IN ('task_stuck', 'task_contradicted', 'submit_unknown') AND NOT EXISTS (
          SELECT 1
          FROM tasks
          WHERE tasks.id = alerts.subject
            AND (topic <> 'task_stuck' OR tasks.state IN ('awaiting', 'submitting', 'submitted', 'processing'))
            AND (topic <> 'submit_unknown' OR tasks.end_reason = 'unknown')
      )
      OR topic = 'delivery_dead' AND NOT EXISTS (
          SELECT 1
          FROM deliveries AS dead INDEXED BY deliveries_dead
          WHERE dead.route = alerts.subject
            AND dead.status = 'dead'
            AND NOT EXISTS (
                SELECT 1
                FROM deliveries AS later
                WHERE later.event_id = dead.event_id
                  AND later.route = dead.route
                  AND later.id > dead.id
            )
      )
      OR topic = 'events_rejected' AND EXISTS (
          SELECT 1
          FROM (SELECT route, status, finished_at FROM deliveries ORDER BY id DESC LIMIT 10000) AS newest
          WHERE newest.route = alerts.subject
            AND newest.status = 'delivered'
            AND newest.finished_at > alerts.last_seen_at
      )
      OR topic = 'asset' AND NOT EXISTS (
          SELECT 1
          FROM events
          WHERE events.id = alerts.subject
            AND (events.archiving IS NOT NULL OR alerts.acknowledged_at IS NULL)
      )
  )
ORDER BY id
LIMIT :limit;

-- name: list_alerts
-- Lists alerts, newest first.
SELECT *
FROM alerts
WHERE TRUE
  AND id = :id -- if id
  AND id < :cursor -- if cursor
  AND id >= :since -- if since
  AND id < :until -- if until
  AND type IN (SELECT value FROM json_each(:types)) -- if types
  AND subject = :subject -- if subject
  AND IIF(closed_at IS NOT NULL, 'closed', IIF(acknowledged_at IS NULL, 'open', 'acknowledged')) IN ( -- if states
      SELECT value FROM json_each(:states) -- if states
  ) -- if states
ORDER BY id DESC
LIMIT :limit;

-- name: count_alerts
-- Counts the alerts that are not closed, by whether they are acknowledged.
SELECT acknowledged_at IS NOT NULL AS is_acknowledged, COUNT(*) AS number
FROM alerts
WHERE closed_at IS NULL
GROUP BY is_acknowledged;

-- name: save_trace
-- Stores the trace of a task, unless it has one.
INSERT INTO traces (task_id, traceparent)
VALUES (?, ?)
ON CONFLICT (task_id) DO NOTHING;

-- name: list_actions
-- Lists audit entries, newest first.
SELECT *
FROM actions
WHERE TRUE
  AND subject IN (SELECT value FROM json_each(:subjects)) -- if subjects
ORDER BY seq DESC
LIMIT :limit;

-- name: newest_id
-- Finds the newest id, so that new ids are newer even if the clock was set back. Ids sort by age without their prefix.
SELECT MAX(SUBSTR(id, INSTR(id, '_') + 1)) AS newest
FROM (
    SELECT MAX(id) AS id FROM tasks
    UNION ALL
    SELECT MAX(id) FROM (SELECT id FROM pushes ORDER BY rowid DESC LIMIT 1000) -- the last commits
    UNION ALL
    SELECT MAX(id) FROM events
    UNION ALL
    SELECT MAX(id) FROM deliveries
);

-- name: stats
-- Counts the rows of every kind, for the operator.
SELECT 'tasks.' || IIF(end_reason IS 'cancelled', 'cancelled', state) AS name, COUNT(*) AS number FROM tasks GROUP BY name
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

-- name: old_push_bodies
-- Finds the oldest push bodies. Pending pushes are excluded.
SELECT rowid AS id, TRUE AS is_old, TRUE AS is_free, LENGTH(body) AS weight
FROM pushes
WHERE body IS NOT NULL
  AND outcome <> 'pending'
  AND received_at < :before
ORDER BY received_at
LIMIT :limit;

-- name: clear_push_bodies
-- Deletes the bodies of pushes. Their rows, digests and outcomes stay.
UPDATE pushes
SET body = NULL
WHERE rowid IN (SELECT value FROM json_each(:ids));

-- name: delete_intents
-- Deletes the bodies of submits.
DELETE FROM intents
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: old_events
-- Reads a page of events by age, with whether each is old and may be deleted. An event may be deleted if it has no
-- pending delivery and no archiving, and belongs neither to an unfinished task nor to a closed, unfinished batch.
SELECT
    events.id,
    events.created_at < :before AS is_old,
    events.archiving IS NULL
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.status = 'pending')
    AND (
        tasks.id IS NULL
        OR tasks.state IN ('succeed', 'failed', 'rejected', 'expired')
        OR tasks.state IN ('awaiting', 'submitted', 'processing') AND tasks.due_at IS NULL AND tasks.expires_at <= :now
    )
    AND NOT EXISTS (
        SELECT 1
        FROM batches
        WHERE batches.name = tasks.batch
          AND batches.closed_at IS NOT NULL
          AND batches.finished_at IS NULL
    ) AS is_free,
    (
        SELECT COUNT(*)
        FROM deliveries
        JOIN attempts ON attempts.delivery_id = deliveries.id
        WHERE deliveries.event_id = events.id
    ) AS weight
FROM events
LEFT JOIN tasks ON tasks.id = events.task_id
WHERE events.id > :after
ORDER BY events.id
LIMIT :limit;

-- name: count_deliveries
-- Counts the deliveries and attempts of some events.
SELECT COUNT(DISTINCT deliveries.id), COUNT(attempts.number)
FROM deliveries
LEFT JOIN attempts ON attempts.delivery_id = deliveries.id
WHERE deliveries.event_id IN (SELECT value FROM json_each(:ids));

-- name: delete_events
-- Deletes events, and by cascade their deliveries, attempts and assets.
DELETE FROM events
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: old_tasks
-- Reads a page of tasks by age, with whether each is old, ended and without events. A task also counts as ended if
-- its callback URL has expired and Kling is not polled.
SELECT
    id,
    created_at < :before AS is_old,
    updated_at < :before
    AND due_at IS NULL
    AND (
        state IN ('succeed', 'failed', 'rejected', 'expired')
        OR state IN ('awaiting', 'submitted', 'processing') AND expires_at <= :now
    )
    AND NOT EXISTS (SELECT 1 FROM events WHERE events.task_id = tasks.id) AS is_free,
    (SELECT COUNT(*) FROM pushes WHERE pushes.task_id = tasks.id) AS weight
FROM tasks
WHERE id > :after
ORDER BY id
LIMIT :limit;

-- name: count_pushes
-- Counts the pushes of some tasks.
SELECT COUNT(*)
FROM pushes
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: delete_tasks
-- Deletes tasks, and by cascade their intents, costs and pushes.
DELETE FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: events_to_archive
-- Finds the events due for archiving, except those in progress.
SELECT *
FROM events
WHERE archive_at <= :now
  AND id NOT IN (SELECT value FROM json_each(:exclude))
ORDER BY archive_at, seq
LIMIT :limit;

-- name: next_archive_due
-- Finds when the next event is due for archiving, except those in progress.
SELECT archive_at
FROM events
WHERE archive_at IS NOT NULL
  AND id NOT IN (SELECT value FROM json_each(:exclude))
ORDER BY archive_at
LIMIT 1;

-- name: events_still_archiving
-- Selects those of some events whose archiving has not ended.
SELECT id
FROM events
WHERE archiving IS NOT NULL
  AND id IN (SELECT value FROM json_each(:ids));

-- name: insert_asset
-- Stores where an archived file is; a second location may be added later.
INSERT INTO assets (event_id, number, url, path, storage, sha256, bytes, content_type)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id, number) DO UPDATE
SET path = excluded.path, storage = excluded.storage;

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

-- name: save_archived_event
-- Updates an event's envelope with its files, and its archiving state.
UPDATE events
SET envelope = ?, archiving = ?, archive_at = ?
WHERE id = ?;

-- name: make_archived_deliveries_due
-- Makes the deliveries due that waited for an event's files.
UPDATE deliveries
SET due_at = ?
WHERE event_id = ?
  AND status = 'pending'
  AND claim IS NULL
  AND attempts = 0
  AND due_at > ?;

-- name: raise_total
-- Raises a total without a label.
INSERT INTO counters (name, label, total)
VALUES (?, '', ?)
ON CONFLICT (name, label) DO UPDATE SET total = MAX(total, excluded.total);

-- name: save_durations
-- Replaces the durations of a kind.
INSERT INTO durations (kind, samples, updated_at)
VALUES (?, ?, ?)
ON CONFLICT (kind) DO UPDATE SET samples = excluded.samples, updated_at = excluded.updated_at;

-- name: keep_cost
-- Copies the cost of a task that is about to be deleted, with all that costs are summed by.
INSERT INTO deleted_costs (task_id, kling_id, state, at, charges, endpoint, label, tags, batch)
SELECT
    tasks.id,
    tasks.kling_id,
    tasks.state,
    COALESCE(costs.at, tasks.updated_at),
    costs.charges,
    tasks.endpoint,
    tasks.label,
    tasks.tags,
    tasks.batch
FROM tasks
LEFT JOIN costs ON costs.task_id = tasks.id
WHERE tasks.id = :task_id
  AND (tasks.kling_id IS NOT NULL OR costs.charges IS NOT NULL);

-- name: add_removal
-- Plans to remove an archived file or object.
INSERT OR REPLACE INTO removals (place, task_id)
VALUES (?, ?);

-- name: delete_removal
-- Records that a file or object has been removed.
DELETE FROM removals
WHERE place = ?;

-- name: search_tasks
-- Lists the tasks of a window that match, newest first. A text is looked for in ids, the label and the prompt. Only
-- requests of up to 64 KiB are searched: larger ones hold pictures.
SELECT *
FROM tasks
WHERE TRUE
  AND id < :cursor -- if cursor
  AND id >= :low -- if low
  AND id >= :since -- if since
  AND id < :until -- if until
  AND state IN (SELECT value FROM json_each(:states)) -- if states
  AND IIF(end_reason IS 'cancelled', 'cancelled', state) IN (SELECT value FROM json_each(:listed_states)) -- if listed_states
  AND endpoint = :endpoint -- if endpoint
  AND label = :label -- if label
  AND batch = :batch -- if batch
  AND NOT EXISTS (SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(tasks.tags)) -- if tags
  AND ( -- if text
      INSTR(id, :text) -- if text
      OR INSTR(kling_id, :text) -- if text
      OR INSTR(LOWER(external_task_id), :text) -- if text
      OR INSTR(LOWER(label), :text) -- if text
      OR INSTR(LOWER(( -- if text
          SELECT CAST(body AS TEXT) ->> '$.prompt' -- if text
          FROM intents -- if text
          WHERE task_id = tasks.id AND IIF(LENGTH(body) <= 65536, json_valid(CAST(body AS TEXT)), FALSE) -- if text
      )), :text) -- if text
  ) -- if text
ORDER BY id DESC
LIMIT :limit;

-- name: search_events
-- Lists the events of a window that match, newest first.
SELECT *
FROM events
WHERE TRUE
  AND id < :cursor -- if cursor
  AND id >= :low -- if low
  AND id >= :since -- if since
  AND id < :until -- if until
  AND task_id = :task_id -- if task_id
  AND type IN (SELECT value FROM json_each(:types)) -- if types
ORDER BY id DESC
LIMIT :limit;

-- name: attempts_of_deliveries
-- Lists the attempts of some deliveries, newest first.
SELECT *
FROM attempts
WHERE delivery_id IN (SELECT value FROM json_each(:ids))
ORDER BY started_at DESC, number DESC;

-- name: deliveries_of_events
-- Reads the route and status of all deliveries of some events, oldest first.
SELECT id, event_id, route, status, replay_of
FROM deliveries
WHERE event_id IN (SELECT value FROM json_each(:ids))
ORDER BY id;

-- name: costs_of_tasks
-- Reads the costs of some tasks.
SELECT task_id, charges
FROM costs
WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: recent_attempts
-- Reads the attempts since a time, of the newest deliveries and of those that wait for a retry.
SELECT sampled.route, attempts.started_at, attempts.duration, attempts.outcome
FROM (
    SELECT id, route
    FROM (SELECT id, route FROM deliveries WHERE id >= :first_delivery ORDER BY id DESC LIMIT :limit)
    UNION
    SELECT id, route
    FROM (SELECT id, route FROM deliveries WHERE status = 'pending' AND attempts > 0 LIMIT :limit)
) AS sampled
JOIN attempts ON attempts.delivery_id = sampled.id
WHERE attempts.started_at >= :since;

-- name: count_unfinished
-- Counts the tasks that wait for a slot and those that may use one, up to a limit each.
SELECT
    (SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE state = 'queued' LIMIT :limit)) AS queued,
    (
        SELECT COUNT(*)
        FROM (SELECT 1 FROM tasks WHERE state IN ('submitting', 'submitted', 'processing') LIMIT :limit)
    ) AS running;

-- name: count_dead
-- Counts the dead deliveries that were not delivered again, up to a limit.
SELECT COUNT(*) AS dead
FROM (
    SELECT 1
    FROM (SELECT id, event_id, route FROM deliveries WHERE status = 'dead' ORDER BY id DESC LIMIT :limit) AS dead
    WHERE NOT EXISTS (
        SELECT 1
        FROM deliveries AS later
        WHERE later.event_id = dead.event_id
          AND later.route = dead.route
          AND later.id > dead.id
    )
);
