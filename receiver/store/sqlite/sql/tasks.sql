-- Statements about tasks: new ones, the submit queue and the poll schedule.

-- name: insert_task
-- Inserts a new task: the columns that never change, then the others.
INSERT INTO tasks (
    id, origin, created_at, batch, idempotency_key, priority, fair_share, state, updated_at, token_hash, endpoint,
    label, tags, kling_id, external_task_id, reply_to, message, kling_state, end_reason, is_end_unverified, slot_key,
    weight, attempts, poll_count, empty_result_count, redundant_push_count, started_at, polled_at, push_poll_at,
    stuck_at, due_at, expires_at, client_callbacks
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

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
