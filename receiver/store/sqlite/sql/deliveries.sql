-- Statements about deliveries: their queue, their attempts and the states of their routes.

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
SET claim = ?, due_at = ?
WHERE status = 'pending'
  AND id IN (:many);

-- name: delivery_claims
-- Reads the claims of some deliveries.
SELECT id, claim
FROM deliveries
WHERE status = 'pending'
  AND claim IS NOT NULL
  AND id IN (SELECT value FROM json_each(:ids));

-- name: record_verdict
-- Stores the verdict on a delivery that still has the same claim, and returns its id.
WITH verdicts (id, claim, status, due_at, finished_at, attempts, probes) AS (
    VALUES (?, ?, ?, ?, ?, ?, ?)
)
UPDATE deliveries
SET status = verdicts.status, due_at = verdicts.due_at, finished_at = verdicts.finished_at,
    attempts = verdicts.attempts, probes = deliveries.probes + verdicts.probes, unfinished_claims = 0, claim = NULL
FROM verdicts
WHERE deliveries.id = verdicts.id
  AND deliveries.claim = verdicts.claim
  AND deliveries.status = 'pending'
RETURNING id;

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
