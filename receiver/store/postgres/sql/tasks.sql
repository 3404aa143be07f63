-- Statements about tasks: new ones, the submit queue and the poll schedule.

-- name: lock_names
-- Locks some names until the end of the transaction, so that two nodes do not create the same one at the same time.
-- The order of the locks is the same in every transaction.
SELECT pg_advisory_xact_lock(key)
FROM (
    SELECT DISTINCT hashtextextended(name, 0) AS key
    FROM unnest(:names::text[]) AS name
    ORDER BY key
) AS keys;

-- name: keep_tasks
-- Prevents the deletion of some tasks until the commit. Other changes of them go on.
SELECT id
FROM tasks
WHERE id = ANY(:ids)
ORDER BY id
FOR KEY SHARE;

-- name: insert_task
-- Inserts new tasks: the columns that never change, then the others.
INSERT INTO tasks (
    id, origin, created_at, batch, idempotency_key, priority, fair_share, state, updated_at, token_hash, endpoint,
    label, tags, kling_id, external_task_id, reply_to, message, kling_state, end_reason, is_end_unverified, slot_key,
    weight, attempts, poll_count, empty_result_count, redundant_push_count, started_at, polled_at, push_poll_at,
    stuck_at, due_at, expires_at, client_callbacks
)
SELECT *
FROM unnest(
    :id::text[], :origin::text[], :created_at::bigint[], :batch::text[], :idempotency_key::text[], :priority::integer[],
    :fair_share::text[], :state::text[], :updated_at::bigint[], :token_hash::bytea[], :endpoint::text[], :label::text[],
    :tags::text[], :kling_id::text[], :external_task_id::text[], :reply_to::text[], :message::text[],
    :kling_state::text[], :end_reason::text[], :is_end_unverified::boolean[], :slot_key::text[], :weight::integer[],
    :attempts::integer[], :poll_count::integer[], :empty_result_count::integer[], :redundant_push_count::integer[],
    :started_at::bigint[], :polled_at::bigint[], :push_poll_at::bigint[], :stuck_at::bigint[], :due_at::bigint[],
    :expires_at::bigint[], :client_callbacks::text[]
);

-- name: tasks_by_idempotency_key
-- Reads the tasks with some idempotency keys.
SELECT *
FROM tasks
WHERE idempotency_key = ANY(:keys);

-- name: insert_request_digest
-- Stores the digests of requests with an idempotency key.
INSERT INTO request_digests (task_id, digest)
SELECT *
FROM unnest(:task_id::text[], :digest::bytea[]);

-- name: save_intent
-- Stores the bodies of submits.
INSERT INTO intents (task_id, body)
SELECT *
FROM unnest(:task_id::text[], :body::bytea[])
ON CONFLICT (task_id) DO UPDATE SET body = excluded.body;

-- name: intents
-- Reads the bodies of submits.
SELECT task_id, body
FROM intents
WHERE task_id = ANY(:ids);

-- name: lock_batches
-- Reads and locks the batches of new tasks.
SELECT *
FROM batches
WHERE name = ANY(:names)
ORDER BY name
FOR NO KEY UPDATE;

-- name: save_batch
-- Inserts a batch, or updates its size, its number of tasks and its closing.
INSERT INTO batches (name, id, size, task_count, created_at, closed_at)
VALUES (:name, :id, :size, :task_count, :created_at, :closed_at)
ON CONFLICT (name) DO UPDATE
SET size = excluded.size, task_count = excluded.task_count, closed_at = excluded.closed_at;

-- name: has_live_token
-- Checks whether an unexpired task has a token.
SELECT EXISTS (
    SELECT 1
    FROM tasks
    WHERE token_hash = :token_hash
      AND (expires_at IS NULL OR expires_at > :now)
);

-- name: has_verified_event
-- Checks whether a signature or the API has verified anything about a task.
SELECT EXISTS (
    SELECT 1
    FROM events
    WHERE task_id = :task_id
      AND verified IN ('signature', 'api')
);

-- name: due_tasks
-- Finds and locks the longest due tasks in one state, optionally of some endpoints only. Another node's are skipped.
SELECT *
FROM tasks
WHERE state = :state
  AND due_at <= :now
  AND endpoint = ANY(:endpoints) -- if endpoints
ORDER BY due_at, id
LIMIT :limit
FOR NO KEY UPDATE SKIP LOCKED;

-- name: tasks_due_after_push
-- Finds and locks the longest due tasks among those whose next poll a push caused. Another node's are skipped.
SELECT *
FROM tasks
WHERE push_poll_at IS NOT NULL
  AND (polled_at IS NULL OR polled_at < push_poll_at)
  AND due_at <= :now
  AND state = ANY(:states)
ORDER BY due_at, id
LIMIT :limit
FOR NO KEY UPDATE SKIP LOCKED;

-- name: postpone_tasks
-- Prevents another claim of claimed tasks before *until*.
UPDATE tasks
SET due_at = :until
WHERE id = ANY(:ids);

-- name: make_tasks_due
-- Makes tasks due that are due before a moment: at once, or *min_gap* after their last poll.
UPDATE tasks
SET due_at = LEAST(
    tasks.due_at,
    CASE WHEN polled_at <= :now THEN GREATEST(:now::bigint, polled_at + :min_gap::bigint) ELSE :now::bigint END
)
FROM (
    SELECT id
    FROM tasks
    WHERE state = ANY(:states)
      AND due_at > :now
      AND due_at <= :before
    ORDER BY id
    FOR NO KEY UPDATE
) AS later
WHERE tasks.id = later.id;

-- name: next_task_due
-- Finds the next due time of the tasks in some states, with one index step per state.
SELECT MIN(due_at)
FROM (
    SELECT (
        SELECT MIN(due_at)
        FROM tasks
        WHERE state = wanted
          AND due_at IS NOT NULL
          AND due_at > :after -- if after
    ) AS due_at
    FROM unnest(:states::text[]) AS wanted
) AS next;

-- name: slots_in_use
-- Counts the slots that running tasks use, by slot key: all, and those of tasks that are not still submitting.
SELECT
    slot_key,
    SUM(weight) AS slots,
    SUM(CASE state WHEN 'submitting' THEN 0 ELSE weight END) AS confirmed
FROM tasks
WHERE state IN ('submitting', 'submitted', 'processing')
  AND slot_key <> ''
  AND state <> 'submitting' -- if confirmed_only
  AND NOT (state = 'submitting' AND id = ANY(:absent::text[])) -- if absent
GROUP BY slot_key;

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
            SELECT COALESCE(SUM(tasks.weight), 0)
            FROM tasks
            WHERE tasks.state IN ('submitting', 'submitted', 'processing')
              AND tasks.slot_key = shares.slot_key
              AND tasks.fair_share = shares.fair_share
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
        queued.id,
        FALSE,
        next_shares.slots_in_use + COALESCE(SUM(queued.weight) OVER (
            share ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0),
        ROW_NUMBER() OVER share,
        next_shares.served_at
    FROM next_shares
    CROSS JOIN LATERAL (
        SELECT tasks.id, tasks.weight, tasks.due_at
        FROM tasks
        WHERE tasks.state = 'queued'
          AND tasks.slot_key = next_shares.slot_key
          AND tasks.priority = next_shares.priority
          AND tasks.fair_share = next_shares.fair_share
          AND tasks.due_at <= :now
        ORDER BY tasks.due_at, tasks.id
        LIMIT :limit
    ) AS queued
    WHERE next_shares.place <= :limit
    WINDOW share AS (PARTITION BY next_shares.slot_key, next_shares.fair_share ORDER BY queued.due_at, queued.id)
    UNION ALL
    SELECT tasks.slot_key, tasks.id, TRUE, 0, 1, 0
    FROM tasks
    JOIN top_priorities ON top_priorities.slot_key = tasks.slot_key AND top_priorities.priority = tasks.priority
    WHERE tasks.id = ANY(:head_ids)
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
JOIN tasks ON tasks.id = next_tasks.id
LEFT JOIN intents ON intents.task_id = tasks.id
ORDER BY tasks.priority DESC, next_tasks.place, tasks.id;

-- name: assign_fair_shares
-- Sets the fair share of queued and running tasks to the value of a tag.
UPDATE tasks
SET fair_share = COALESCE(tags::json ->> :tag, '')
FROM (
    SELECT id
    FROM tasks
    WHERE state IN ('queued', 'submitting', 'submitted', 'processing')
      AND fair_share <> COALESCE(tags::json ->> :tag, '')
    ORDER BY id
    FOR NO KEY UPDATE
) AS unfinished
WHERE tasks.id = unfinished.id;
