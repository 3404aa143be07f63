-- The nodes that share the database, their leases, and calls between them.

-- name: find_node
-- Find the process that has a node's name.
SELECT name, instance, version, started_at, seen_at, micros_now() - seen_at AS silence
FROM nodes
WHERE name = :name;

-- name: register_node
-- Give a node's name to a process, unless another one has it than the one it replaces.
INSERT INTO nodes (name, instance, version, started_at, seen_at)
VALUES (:name, :instance, :version, micros_now(), micros_now())
ON CONFLICT (name) DO UPDATE
SET
    instance = excluded.instance,
    version = excluded.version,
    started_at = excluded.started_at,
    seen_at = excluded.seen_at
WHERE nodes.instance = :replacing;

-- name: add_missing_leases
-- Add the duties of this version that no earlier one knew.
INSERT INTO leases (duty)
SELECT duty
FROM unnest(:duties::text[]) AS duty
ORDER BY duty
ON CONFLICT DO NOTHING;

-- name: forget_old_nodes
-- Forget the nodes that have not been seen for a long time.
DELETE FROM nodes
WHERE name IN (SELECT name FROM nodes WHERE seen_at < micros_now() - :age::bigint FOR UPDATE SKIP LOCKED);

-- name: renew_node
-- Record that a process lives.
UPDATE nodes
SET seen_at = micros_now()
WHERE name = :name AND instance = :instance;

-- name: renew_leases
-- Renew the leases of a process, also those that have ended meanwhile, if no other process has taken them.
UPDATE leases
SET until = micros_now() + :lifetime::bigint, session_instance = :session
WHERE instance = :instance AND duty = ANY(:duties::text[]);

-- name: take_lease
-- Take a duty whose lease has ended, or the session of its holder, unless another process was faster.
UPDATE leases
SET
    epoch = epoch + 1,
    node = :name,
    instance = :instance,
    until = micros_now() + :lifetime::bigint,
    session_instance = :session
WHERE duty = :duty
  AND epoch = :epoch
  AND (
      instance IS NULL
      OR until <= micros_now()
      OR (session_instance = instance AND NOT has_session(instance))
  );

-- name: find_abandoned_lease
-- Find the lease on a duty if the session of its holder has ended.
SELECT duty, epoch, node, instance, until - micros_now() AS remaining
FROM leases
WHERE duty = :duty AND session_instance = instance AND NOT has_session(instance);

-- name: open_session
-- Lock the key of a process until its session ends. An earlier session of it may not have noticed its end yet.
SELECT pg_advisory_lock_shared(session_key(:instance));

-- name: lock_lease
-- Lock a lease until the end of the transaction, if it is still that one. Its holder can renew it meanwhile, but no
-- other process can take it: that changes the number, which is part of a key.
SELECT epoch
FROM leases
WHERE duty = :duty AND epoch = :epoch AND instance = :instance
FOR KEY SHARE;

-- name: give_back_leases
-- End leases of a process, so that others need not wait for it.
UPDATE leases
SET
    node = NULL,
    instance = NULL,
    until = 0
WHERE instance = :instance AND duty = ANY(:duties::text[]);

-- name: remove_node
-- Remove a process that stops.
DELETE FROM nodes
WHERE name = :name AND instance = :instance;

-- name: list_nodes
-- List all nodes by name.
SELECT name, instance, version, started_at, seen_at, micros_now() - seen_at AS silence
FROM nodes
ORDER BY name;

-- name: list_leases
-- List all leases by duty.
SELECT duty, epoch, node, instance, until - micros_now() AS remaining
FROM leases
ORDER BY duty;

-- name: add_call
-- Ask the holder of a duty for something.
INSERT INTO calls (id, duty, kind, arguments, created_at, wanted_at)
VALUES (:id, :duty, :kind, :arguments, micros_now(), micros_now());

-- name: take_calls
-- Take the calls of a duty that no holder has taken, oldest first. A call that its caller gave up is left.
UPDATE calls
SET taken_by = :instance
WHERE id IN (
    SELECT id
    FROM calls
    WHERE duty = :duty AND taken_by IS NULL AND wanted_at > micros_now() - :max_silence::bigint
    ORDER BY created_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
RETURNING id, kind, arguments;

-- name: answer_call
-- Store the answer of a call, if the process that took it still serves it.
UPDATE calls
SET answer = :answer
WHERE id = :id AND taken_by = :instance AND answer IS NULL;

-- name: await_call
-- Record that a caller still waits, and return the answer so far and who serves the call.
UPDATE calls
SET wanted_at = micros_now()
WHERE id = :id
RETURNING answer, taken_by;

-- name: list_wanted_calls
-- List those of some calls whose callers still wait.
SELECT id
FROM calls
WHERE id = ANY(:ids::text[]) AND wanted_at > micros_now() - :max_silence::bigint;

-- name: remove_call
-- Remove a call whose caller has its answer or has given up. A holder that has not taken it never will.
DELETE FROM calls
WHERE id = :id
RETURNING answer, taken_by;

-- name: remove_old_calls
-- Remove the calls whose callers died.
DELETE FROM calls
WHERE id IN (SELECT id FROM calls WHERE wanted_at < micros_now() - :age::bigint FOR UPDATE SKIP LOCKED);

-- name: notify_nodes
-- Wake the nodes that listen.
SELECT pg_notify(:channel, :payload);
