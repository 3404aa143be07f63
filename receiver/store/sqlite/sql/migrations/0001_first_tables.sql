-- The first tables. Times are microseconds since the epoch in UTC, bodies are bytes, ids sort by age.

-- Groups of tasks that are reported together. An open batch accepts tasks; `task_count` counts them. The id is that of
-- its first task with the prefix of batches.
CREATE TABLE batches (
    name TEXT PRIMARY KEY NOT NULL,
    id TEXT NOT NULL UNIQUE,
    size INTEGER CHECK (size >= 1),
    task_count INTEGER NOT NULL CHECK (task_count >= 1),
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    finished_at INTEGER,
    event_id TEXT,
    CHECK (size IS NULL OR task_count <= size),
    CHECK (finished_at IS NULL OR closed_at IS NOT NULL),
    CHECK ((finished_at IS NULL) = (event_id IS NULL))
) STRICT;

CREATE INDEX batches_unfinished ON batches (name) WHERE closed_at IS NOT NULL AND finished_at IS NULL;

-- A batch is finished once, and its event is sent once.
CREATE TRIGGER batches_end_is_final BEFORE UPDATE ON batches
WHEN OLD.finished_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a finished batch never changes');
END;

CREATE TABLE tasks (
    id TEXT PRIMARY KEY NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('gateway', 'api', 'minted', 'test')),
    state TEXT NOT NULL CHECK (state IN (
        'awaiting', 'queued', 'submitting', 'submitted', 'processing', 'succeed', 'failed', 'rejected', 'expired'
    )),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    token_hash BLOB UNIQUE CHECK (length(token_hash) = 32),
    endpoint TEXT,
    label TEXT,
    tags TEXT NOT NULL CHECK (json_valid(tags)),
    batch TEXT REFERENCES batches (name),
    idempotency_key TEXT UNIQUE,
    kling_id TEXT,
    external_task_id TEXT,
    reply_to TEXT,
    message TEXT NOT NULL,
    kling_state TEXT CHECK (kling_state IN (
        'awaiting', 'queued', 'submitting', 'submitted', 'processing', 'succeed', 'failed', 'rejected', 'expired'
    )),
    end_reason TEXT CHECK (end_reason IN ('cancelled', 'refused', 'unknown', 'timed_out')),
    pack TEXT NOT NULL,
    weight INTEGER NOT NULL CHECK (weight >= 0),
    priority INTEGER NOT NULL,
    fair_share TEXT NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    poll_count INTEGER NOT NULL CHECK (poll_count >= 0),
    empty_result_count INTEGER NOT NULL CHECK (empty_result_count >= 0),
    redundant_push_count INTEGER NOT NULL CHECK (redundant_push_count >= 0),
    started_at INTEGER,
    polled_at INTEGER,
    push_poll_at INTEGER,
    stuck_at INTEGER,
    due_at INTEGER,
    expires_at INTEGER,
    CHECK (end_reason IS NULL OR state IN ('rejected', 'expired'))
) STRICT;

CREATE INDEX tasks_due ON tasks (state, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_due_after_push ON tasks (due_at, id)
WHERE push_poll_at IS NOT NULL AND (polled_at IS NULL OR polled_at < push_poll_at);
CREATE INDEX tasks_by_state ON tasks (state);
CREATE INDEX tasks_queued ON tasks (pack, priority, fair_share, due_at, id) WHERE state = 'queued';
CREATE INDEX tasks_running ON tasks (pack, fair_share, weight) WHERE state IN ('submitting', 'submitted', 'processing');
CREATE INDEX tasks_last_started ON tasks (pack, fair_share, started_at) WHERE started_at IS NOT NULL;
CREATE INDEX tasks_by_kling_id ON tasks (kling_id, id) WHERE kling_id IS NOT NULL;
CREATE INDEX tasks_by_external_id ON tasks (external_task_id, id) WHERE external_task_id IS NOT NULL;
CREATE INDEX tasks_of_batch ON tasks (batch, id, state) WHERE batch IS NOT NULL;
CREATE INDEX tasks_unfinished_in_batch ON tasks (batch)
WHERE batch IS NOT NULL AND state IN ('awaiting', 'queued', 'submitting', 'submitted', 'processing');

-- Kling's final state of a task never changes, even if a client of the store tries to change it.
CREATE TRIGGER tasks_end_is_final BEFORE UPDATE OF state ON tasks
WHEN OLD.state IN ('succeed', 'failed') AND NEW.state <> OLD.state
BEGIN
    SELECT RAISE(ABORT, 'a task never leaves succeed or failed');
END;

-- The bodies of submits, in their own table so that task rows stay small.
CREATE TABLE intents (
    task_id TEXT PRIMARY KEY NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    body BLOB NOT NULL
) STRICT;

-- The cost of a task: exact amounts as text by unit, and the part of Kling's answer that reports them.
CREATE TABLE costs (
    task_id TEXT PRIMARY KEY NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    charges TEXT NOT NULL CHECK (json_valid(charges)),
    raw TEXT NOT NULL CHECK (json_valid(raw))
) STRICT;

CREATE INDEX costs_at ON costs (at);

-- Retention sets a body to NULL; the row and its digest stay.
CREATE TABLE pushes (
    id TEXT PRIMARY KEY NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    source TEXT NOT NULL CHECK (source IN ('callback', 'poll', 'submit', 'receiver')),
    headers TEXT NOT NULL CHECK (json_valid(headers)),
    body BLOB,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    received_at INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN (
        'pending', 'applied', 'duplicate', 'stale', 'mismatch', 'unrecognized', 'forged'
    )),
    CHECK (body IS NOT NULL OR outcome <> 'pending')
) STRICT;

CREATE INDEX pushes_of_task ON pushes (task_id, id);
CREATE INDEX pushes_pending ON pushes (task_id, id) WHERE outcome = 'pending';
CREATE INDEX pushes_with_body ON pushes (received_at) WHERE body IS NOT NULL AND outcome <> 'pending';

-- `seq` is the order of commits. An id is created before its commit, so a newer id may be committed first.
-- `archiving` is the state of results that are still to be archived, `archive_at` the time of the next archiving step.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    task_id TEXT REFERENCES tasks (id) ON DELETE CASCADE,
    push_id TEXT,
    type TEXT NOT NULL,
    envelope BLOB NOT NULL,
    body BLOB NOT NULL,
    verified TEXT NOT NULL CHECK (verified IN ('signature', 'api', 'none')),
    created_at INTEGER NOT NULL,
    decisions TEXT NOT NULL CHECK (json_valid(decisions)),
    archiving TEXT CHECK (archiving IN ('awaited', 'late', 'expiring')),
    archive_at INTEGER,
    CHECK (type NOT IN ('task.succeed', 'task.failed') OR task_id IS NOT NULL),
    CHECK ((archiving IS NULL) = (archive_at IS NULL))
) STRICT;

CREATE UNIQUE INDEX events_one_end ON events (task_id) WHERE type IN ('task.succeed', 'task.failed');
CREATE INDEX events_of_task ON events (task_id, id) WHERE task_id IS NOT NULL;
CREATE INDEX events_archiving ON events (archive_at, seq) WHERE archive_at IS NOT NULL;

CREATE TABLE deliveries (
    id TEXT PRIMARY KEY NOT NULL,
    event_id TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    route TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'delivered', 'dead', 'cancelled')),
    created_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    probes INTEGER NOT NULL CHECK (probes BETWEEN 0 AND attempts),
    unfinished_claims INTEGER NOT NULL CHECK (unfinished_claims >= 0),
    claim TEXT,
    replay_of TEXT,
    finished_at INTEGER,
    CHECK ((status = 'pending') = (finished_at IS NULL)),
    CHECK (claim IS NULL OR status = 'pending')
) STRICT;

CREATE UNIQUE INDEX deliveries_once ON deliveries (event_id, route) WHERE replay_of IS NULL;
CREATE INDEX deliveries_due ON deliveries (route, due_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_retrying ON deliveries (route, id) WHERE status = 'pending' AND attempts > 0;
CREATE INDEX deliveries_of_event ON deliveries (event_id);

-- A final verdict never changes; a replay is a new delivery that refers to the old one.
CREATE TRIGGER deliveries_end_is_final BEFORE UPDATE ON deliveries
WHEN OLD.status <> 'pending'
BEGIN
    SELECT RAISE(ABORT, 'a final delivery never changes');
END;

CREATE TABLE attempts (
    delivery_id TEXT NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 1),
    started_at INTEGER NOT NULL,
    duration INTEGER NOT NULL CHECK (duration >= 0),
    outcome TEXT NOT NULL,
    code INTEGER,
    reason TEXT NOT NULL,
    excerpt BLOB NOT NULL,
    PRIMARY KEY (delivery_id, number)
) STRICT;

CREATE TABLE routes (
    name TEXT PRIMARY KEY NOT NULL,
    failures INTEGER NOT NULL CHECK (failures >= 0),
    held_at INTEGER,
    held_by TEXT CHECK (held_by IN ('failures', 'operator')),
    held_why TEXT NOT NULL,
    probe_at INTEGER,
    released_at INTEGER,
    CHECK ((held_at IS NULL) = (held_by IS NULL))
) STRICT, WITHOUT ROWID;

-- The archived results, as an event lists them.
CREATE TABLE assets (
    event_id TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 0),
    url TEXT NOT NULL,
    path TEXT,
    storage TEXT,
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    content_type TEXT NOT NULL,
    PRIMARY KEY (event_id, number),
    CHECK (path IS NOT NULL OR storage IS NOT NULL)
) STRICT;

-- Requested replays and their progress: `cursor` is the last id processed.
CREATE TABLE replays (
    id TEXT PRIMARY KEY NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    selection TEXT NOT NULL CHECK (json_valid(selection)),
    actor TEXT NOT NULL,
    why TEXT NOT NULL,
    last TEXT NOT NULL,
    total INTEGER NOT NULL CHECK (total >= 0),
    created_at INTEGER NOT NULL,
    rate_count INTEGER CHECK (rate_count >= 1),
    rate_per INTEGER CHECK (rate_per >= 1),
    cursor TEXT NOT NULL,
    created INTEGER NOT NULL CHECK (created >= 0),
    finished_at INTEGER,
    CHECK ((state = 'running') = (finished_at IS NULL)),
    CHECK ((rate_count IS NULL) = (rate_per IS NULL))
) STRICT;

CREATE INDEX replays_running ON replays (id) WHERE state = 'running';

-- The audit log: actions of people, such as holding a route or replaying a delivery.
CREATE TABLE actions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    verb TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;

CREATE INDEX actions_of ON actions (subject, seq);
