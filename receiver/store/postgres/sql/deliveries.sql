-- Statements about deliveries: their queue, their attempts and the states of their routes.

-- name: insert_delivery
-- Inserts deliveries. Each event has one per route, apart from replays.
INSERT INTO deliveries (
    id, event_id, route, status, created_at, due_at, attempts, probes, unfinished_claims, claim, replay_of, finished_at
)
SELECT *
FROM unnest(
    :id::text[], :event_id::text[], :route::text[], :status::text[], :created_at::bigint[], :due_at::bigint[],
    :attempts::integer[], :probes::integer[], :unfinished_claims::integer[], :claim::text[], :replay_of::text[],
    :finished_at::bigint[]
)
ON CONFLICT (event_id, route, (CASE WHEN replay_of IS NULL THEN '' ELSE id END)) DO NOTHING;

-- name: claim_deliveries
-- Claims the longest due deliveries of a route and reads everything their sender needs. Without a verdict they are due
-- again when the lease ends. Deliveries that another node is claiming are skipped. A claim that a crash undoes is made
-- again, so one that is a transaction of its own does not wait for the disk.
WITH due AS (
    SELECT *
    FROM deliveries
    WHERE status = 'pending'
      AND route = :route
      AND due_at <= :now -- if now
      AND (due_at <= :early OR attempts > 0 AND claim IS NULL) -- if early
      AND id = :only -- if only
      AND id <> ALL(:skip) -- if skip
    ORDER BY due_at, id
    LIMIT :limit
    FOR NO KEY UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE deliveries
    SET claim = :claim, due_at = :until
    FROM due
    WHERE deliveries.id = due.id
    RETURNING deliveries.id
)
SELECT
    due.id,
    due.route,
    due.created_at,
    due.due_at,
    due.attempts,
    due.probes,
    due.unfinished_claims,
    due.replay_of,
    events.id AS event_id,
    events.type,
    events.envelope,
    events.body,
    events.verified,
    events.created_at AS event_created_at,
    events.task_id,
    events.push_id,
    tasks.reply_to
FROM due
JOIN claimed ON claimed.id = due.id
JOIN events ON events.id = due.event_id
LEFT JOIN tasks ON tasks.id = events.task_id
WHERE TRUE
  AND set_config('synchronous_commit', 'off', TRUE) = 'off' -- if alone
ORDER BY due.due_at, due.id;

-- name: lock_claims
-- Reads and locks the claims of some deliveries, in one order on all nodes. No condition but the ids: without
-- statistics about a new database the planner would read an index of all deliveries that meet it.
SELECT id, claim, route
FROM deliveries
WHERE id = ANY(:ids)
ORDER BY id
FOR NO KEY UPDATE;

-- name: record_verdict
-- Stores the verdicts on deliveries that still have the same claims.
UPDATE deliveries
SET status = verdict.status, due_at = verdict.due_at, finished_at = verdict.finished_at,
    attempts = verdict.attempts, probes = deliveries.probes + verdict.probes, unfinished_claims = 0, claim = NULL
FROM unnest(
    :id::text[], :claim::text[], :status::text[], :due_at::bigint[], :finished_at::bigint[], :attempts::integer[],
    :probes::integer[]
) AS verdict (id, claim, status, due_at, finished_at, attempts, probes)
WHERE deliveries.id = verdict.id
  AND deliveries.claim = verdict.claim;

-- name: record_attempts
-- Stores the verdicts on deliveries that still have the same claims, and their attempts, and returns these deliveries.
WITH recorded AS (
    UPDATE deliveries
    SET status = verdict.status, due_at = verdict.due_at, finished_at = verdict.finished_at,
        attempts = verdict.attempts, probes = deliveries.probes + verdict.probes, unfinished_claims = 0, claim = NULL
    FROM unnest(
        :id::text[], :claim::text[], :status::text[], :due_at::bigint[], :finished_at::bigint[], :attempts::integer[],
        :probes::integer[]
    ) AS verdict (id, claim, status, due_at, finished_at, attempts, probes)
    WHERE deliveries.id = verdict.id
      AND deliveries.claim = verdict.claim
    RETURNING deliveries.id
),
stored AS (
    INSERT INTO attempts (delivery_id, number, started_at, duration, outcome, code, reason, excerpt)
    SELECT attempt.*
    FROM unnest(
        :id::text[], :attempts::integer[], :started_at::bigint[], :duration::bigint[], :outcome::text[],
        :code::integer[], :reason::text[], :excerpt::bytea[]
    ) AS attempt (delivery_id, number, started_at, duration, outcome, code, reason, excerpt)
    JOIN recorded ON recorded.id = attempt.delivery_id
)
SELECT id
FROM recorded;

-- name: release_delivery
-- Releases claimed deliveries without an attempt.
UPDATE deliveries
SET due_at = released.due_at, claim = NULL
FROM unnest(:due_at::bigint[], :id::text[], :claim::text[]) AS released (due_at, id, claim)
WHERE deliveries.id = released.id
  AND deliveries.claim = released.claim;

-- name: count_claimed_deliveries
-- Counts the claimed deliveries, up to two.
SELECT COUNT(*)
FROM (SELECT 1 FROM deliveries WHERE status = 'pending' AND claim IS NOT NULL LIMIT 2) AS claimed;

-- name: release_all_deliveries
-- Makes every claimed delivery due, after the process that claimed them has died. The death counts in full against a
-- delivery that was alone in flight, and up to a limit against each of several.
UPDATE deliveries
SET due_at = :now, claim = NULL,
    unfinished_claims = GREATEST(
        unfinished_claims,
        CASE WHEN :alone THEN unfinished_claims + 1 ELSE LEAST(unfinished_claims + 1, :limit_together) END
    )
FROM (
    SELECT id
    FROM deliveries
    WHERE status = 'pending'
      AND claim IS NOT NULL
    ORDER BY id
    FOR NO KEY UPDATE
) AS claimed
WHERE deliveries.id = claimed.id;

-- name: retry_route_now
-- Makes attempted deliveries of a route due at their creation time, like those without an attempt, so that all are
-- ordered by age. Those without an attempt, up to a million, are not changed.
UPDATE deliveries
SET due_at = LEAST(created_at, :now)
FROM (
    SELECT id
    FROM deliveries
    WHERE status = 'pending'
      AND attempts > 0
      AND claim IS NULL
      AND route = :route
    ORDER BY id
    FOR NO KEY UPDATE
) AS retried
WHERE deliveries.id = retried.id;

-- name: bring_forward
-- Makes some deliveries due that have a later due time and no attempt, after the clock was set back. Those that wait
-- for files keep waiting, but no longer than allowed.
UPDATE deliveries
SET due_at = CASE
        WHEN EXISTS (SELECT 1 FROM events WHERE events.id = deliveries.event_id AND events.archiving = 'awaited')
        THEN :archive_wait_until::bigint
        ELSE :now::bigint
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
    FOR NO KEY UPDATE SKIP LOCKED
);

-- name: insert_attempt
-- Inserts attempts.
INSERT INTO attempts (delivery_id, number, started_at, duration, outcome, code, reason, excerpt)
SELECT *
FROM unnest(
    :delivery_id::text[], :number::integer[], :started_at::bigint[], :duration::bigint[], :outcome::text[],
    :code::integer[], :reason::text[], :excerpt::bytea[]
);

-- name: delete_oldest_attempts
-- Limits the attempts of one delivery, so that a destination that is down for weeks does not fill the disk.
DELETE FROM attempts
WHERE delivery_id = :delivery_id
  AND number <= :number;

-- name: save_route
-- Stores a route's state.
INSERT INTO routes (name, failures, held_at, held_by, held_why, probe_at, released_at)
VALUES (:name, :failures, :held_at, :held_by, :held_why, :probe_at, :released_at)
ON CONFLICT (name) DO UPDATE
SET failures = excluded.failures, held_at = excluded.held_at, held_by = excluded.held_by,
    held_why = excluded.held_why, probe_at = excluded.probe_at, released_at = excluded.released_at;
