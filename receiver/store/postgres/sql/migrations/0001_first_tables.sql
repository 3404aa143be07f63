-- The first tables. Times are microseconds since the epoch in UTC, bodies are bytes, ids sort by age. Text that is
-- compared or ordered has the collation "C", which compares bytes, whatever the collation of the database is.
-- JSON is text, because jsonb refuses some of the characters that Kling may send.

-- Groups of tasks that are reported together. An open batch accepts tasks; `task_count` counts them. The id is that of
-- its first task with the prefix of batches.
CREATE TABLE batches (
    name TEXT COLLATE "C" PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    size INTEGER CHECK (size >= 1),
    task_count INTEGER NOT NULL CHECK (task_count >= 1),
    created_at BIGINT NOT NULL,
    closed_at BIGINT,
    finished_at BIGINT,
    event_id TEXT COLLATE "C",
    CHECK (size IS NULL OR task_count <= size),
    CHECK (finished_at IS NULL OR closed_at IS NOT NULL),
    CHECK ((finished_at IS NULL) = (event_id IS NULL))
);

CREATE INDEX batches_unfinished ON batches (name) WHERE closed_at IS NOT NULL AND finished_at IS NULL;

-- Refuses a change. The trigger's argument is the reason, and its error is one of a violated constraint.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = TG_ARGV[0];
END
$$;

-- A batch is finished once, and its event is sent once.
CREATE TRIGGER batches_end_is_final BEFORE UPDATE ON batches
FOR EACH ROW WHEN (OLD.finished_at IS NOT NULL)
EXECUTE FUNCTION refuse_change('a finished batch never changes');

-- A task is changed often, and most changes also change an index, so its dead rows are vacuumed early.
CREATE TABLE tasks (
    id TEXT COLLATE "C" PRIMARY KEY,
    origin TEXT COLLATE "C" NOT NULL CHECK (origin IN ('gateway', 'api', 'minted', 'test')),
    state TEXT COLLATE "C" NOT NULL CHECK (state IN (
        'awaiting', 'queued', 'submitting', 'submitted', 'processing', 'succeed', 'failed', 'rejected', 'expired'
    )),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    token_hash BYTEA CHECK (octet_length(token_hash) = 32),
    endpoint TEXT COLLATE "C",
    label TEXT COLLATE "C",
    tags TEXT NOT NULL CHECK (tags IS JSON),
    batch TEXT COLLATE "C" REFERENCES batches (name),
    idempotency_key TEXT COLLATE "C",
    kling_id TEXT COLLATE "C",
    external_task_id TEXT COLLATE "C",
    reply_to TEXT,
    message TEXT NOT NULL,
    kling_state TEXT COLLATE "C" CHECK (kling_state IN (
        'awaiting', 'queued', 'submitting', 'submitted', 'processing', 'succeed', 'failed', 'rejected', 'expired'
    )),
    end_reason TEXT COLLATE "C" CHECK (end_reason IN ('cancelled', 'refused', 'unknown', 'timed_out')),
    is_end_unverified BOOLEAN NOT NULL DEFAULT FALSE,
    slot_key TEXT COLLATE "C" NOT NULL,
    weight INTEGER NOT NULL CHECK (weight >= 0),
    priority INTEGER NOT NULL,
    fair_share TEXT COLLATE "C" NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    poll_count INTEGER NOT NULL CHECK (poll_count >= 0),
    empty_result_count INTEGER NOT NULL CHECK (empty_result_count >= 0),
    redundant_push_count INTEGER NOT NULL CHECK (redundant_push_count >= 0),
    started_at BIGINT,
    polled_at BIGINT,
    push_poll_at BIGINT,
    stuck_at BIGINT,
    due_at BIGINT,
    expires_at BIGINT,
    client_callbacks TEXT COLLATE "C" NOT NULL DEFAULT 'all' CHECK (client_callbacks IN ('all', 'final', 'ended')),
    CHECK (end_reason IS NULL OR state IN ('rejected', 'expired')),
    CHECK (NOT is_end_unverified OR state IN ('succeed', 'failed'))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- These two are partial, so that a change of their column does not lock the row against references to it.
CREATE UNIQUE INDEX tasks_by_token ON tasks (token_hash) WHERE token_hash IS NOT NULL;
CREATE UNIQUE INDEX tasks_by_idempotency_key ON tasks (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX tasks_due ON tasks (state, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_due_after_push ON tasks (due_at, id)
WHERE push_poll_at IS NOT NULL AND (polled_at IS NULL OR polled_at < push_poll_at);
CREATE INDEX tasks_by_state ON tasks (state);
CREATE INDEX tasks_queued ON tasks (slot_key, priority, fair_share, due_at, id) WHERE state = 'queued';
CREATE INDEX tasks_running ON tasks (slot_key, fair_share, weight) WHERE state IN ('submitting', 'submitted', 'processing');
CREATE INDEX tasks_last_started ON tasks (slot_key, fair_share, started_at) WHERE started_at IS NOT NULL;
CREATE INDEX tasks_by_kling_id ON tasks (kling_id) WHERE kling_id IS NOT NULL;
CREATE INDEX tasks_by_external_id ON tasks (external_task_id) WHERE external_task_id IS NOT NULL;
CREATE INDEX tasks_of_batch ON tasks (batch, id, state) WHERE batch IS NOT NULL;
CREATE INDEX tasks_unfinished_in_batch ON tasks (batch)
WHERE batch IS NOT NULL AND state IN ('awaiting', 'queued', 'submitting', 'submitted', 'processing');

-- Kling's final state of a task never changes, except from an unverified to a verified one.
CREATE TRIGGER tasks_end_is_final BEFORE UPDATE OF state, is_end_unverified ON tasks
FOR EACH ROW WHEN (
    OLD.state IN ('succeed', 'failed')
    AND (NEW.state <> OLD.state OR NEW.is_end_unverified <> OLD.is_end_unverified)
    AND NOT (OLD.is_end_unverified AND NOT NEW.is_end_unverified AND NEW.state IN ('succeed', 'failed'))
)
EXECUTE FUNCTION refuse_change('a task never leaves succeed or failed');

-- The end is sent to a client's URL once.
CREATE TRIGGER tasks_client_has_ended BEFORE UPDATE OF client_callbacks ON tasks
FOR EACH ROW WHEN (OLD.client_callbacks = 'ended' AND NEW.client_callbacks <> 'ended')
EXECUTE FUNCTION refuse_change('a client receives the end of its task once');

-- The bodies of submits, in their own table so that task rows stay small.
CREATE TABLE intents (
    task_id TEXT COLLATE "C" PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    body BYTEA NOT NULL
);

-- The digest of a request with an idempotency key, so that the same key with another body is noticed.
CREATE TABLE request_digests (
    task_id TEXT COLLATE "C" PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    digest BYTEA NOT NULL CHECK (octet_length(digest) = 32)
);

-- The trace of a task's submit, as W3C `traceparent`, so that a later process continues it. Empty without tracing.
CREATE TABLE traces (
    task_id TEXT COLLATE "C" PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    traceparent TEXT NOT NULL CHECK (length(traceparent) = 55)
);

-- The cost of a task: exact amounts as text by unit, and the part of Kling's answer that reports them.
CREATE TABLE costs (
    task_id TEXT COLLATE "C" PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    charges TEXT NOT NULL CHECK (charges IS JSON),
    raw TEXT NOT NULL CHECK (raw IS JSON)
);

CREATE INDEX costs_at ON costs (at);

-- The ledger's lines of deleted tasks: what they cost, what costs are summed by, and what Kling's ledgers know them by.
CREATE TABLE deleted_costs (
    task_id TEXT COLLATE "C" PRIMARY KEY,
    kling_id TEXT COLLATE "C",
    state TEXT COLLATE "C" NOT NULL,
    at BIGINT NOT NULL,
    charges TEXT CHECK (charges IS NULL OR charges IS JSON),
    endpoint TEXT COLLATE "C",
    label TEXT COLLATE "C",
    tags TEXT NOT NULL CHECK (tags IS JSON),
    batch TEXT COLLATE "C"
);

CREATE INDEX deleted_costs_at ON deleted_costs (at);
CREATE INDEX deleted_costs_of_kling ON deleted_costs (kling_id) WHERE kling_id IS NOT NULL;

-- The ids of pushes are looked up within their task alone, so that one index serves both. A callback's body is stored
-- once: with its event, if it has one. Retention sets a body to NULL; the row and its digest stay.
CREATE TABLE pushes (
    id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    source TEXT COLLATE "C" NOT NULL CHECK (source IN ('callback', 'poll', 'submit', 'receiver')),
    headers TEXT NOT NULL CHECK (headers IS JSON),
    body BYTEA,
    digest BYTEA NOT NULL CHECK (octet_length(digest) = 32),
    received_at BIGINT NOT NULL,
    outcome TEXT COLLATE "C" NOT NULL CHECK (outcome IN (
        'pending', 'applied', 'duplicate', 'stale', 'mismatch', 'unrecognized', 'forged'
    )),
    PRIMARY KEY (task_id, id),
    CHECK (body IS NOT NULL OR outcome <> 'pending')
);

CREATE INDEX pushes_pending ON pushes (task_id, id) WHERE outcome = 'pending';
CREATE INDEX pushes_with_body ON pushes (received_at) WHERE body IS NOT NULL AND outcome <> 'pending';

-- `seq` is the order of commits. An id is created before its commit, so a newer id may be committed first.
-- `archiving` is the state of results that are still to be archived, `archive_at` the time of the next archiving step.
CREATE TABLE events (
    seq BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    task_id TEXT COLLATE "C" REFERENCES tasks (id) ON DELETE CASCADE,
    push_id TEXT COLLATE "C",
    type TEXT COLLATE "C" NOT NULL,
    envelope BYTEA NOT NULL,
    body BYTEA NOT NULL,
    verified TEXT COLLATE "C" NOT NULL CHECK (verified IN ('signature', 'api', 'none')),
    created_at BIGINT NOT NULL,
    decisions TEXT NOT NULL CHECK (decisions IS JSON),
    archiving TEXT COLLATE "C" CHECK (archiving IN ('awaited', 'late', 'expiring')),
    archive_at BIGINT,
    CHECK (type NOT IN ('task.succeed', 'task.failed') OR task_id IS NOT NULL),
    CHECK ((archiving IS NULL) = (archive_at IS NULL))
);

CREATE UNIQUE INDEX events_one_end ON events (task_id, (verified = 'none'))
WHERE type IN ('task.succeed', 'task.failed');
CREATE INDEX events_of_task ON events (task_id, id) WHERE task_id IS NOT NULL;
CREATE INDEX events_archiving ON events (archive_at, seq) WHERE archive_at IS NOT NULL;

-- Alerts are few among many events. A start reads the newest ones, to know what was reported already.
CREATE INDEX events_alerts ON events (id) WHERE type >= 'alert.' AND type < 'alert/';

-- Transactions that store events commit one after the other. Otherwise a reader of the event stream could see an event
-- before one with a smaller `seq`, and miss that one.
CREATE FUNCTION lock_event_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('kling-receiver events'));
    RETURN NULL;
END
$$;

CREATE TRIGGER events_order BEFORE INSERT ON events
FOR EACH STATEMENT
EXECUTE FUNCTION lock_event_order();

-- Pushes with their bodies. That of a callback without one is in its event; a poll's event has only a part of its body.
CREATE VIEW whole_pushes AS
SELECT
    id, task_id, source, headers, digest, received_at, outcome,
    CASE WHEN body IS NOT NULL OR source <> 'callback' THEN body ELSE (
        SELECT events.body
        FROM events
        WHERE events.task_id = pushes.task_id
          AND events.push_id = pushes.id
    ) END AS body
FROM pushes;

-- A delivery is changed twice at least, and each change also changes an index.
CREATE TABLE deliveries (
    id TEXT COLLATE "C" PRIMARY KEY,
    event_id TEXT COLLATE "C" NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    route TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('pending', 'delivered', 'dead', 'cancelled')),
    created_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    probes INTEGER NOT NULL CHECK (probes BETWEEN 0 AND attempts),
    unfinished_claims INTEGER NOT NULL CHECK (unfinished_claims >= 0),
    claim TEXT COLLATE "C",
    replay_of TEXT COLLATE "C",
    finished_at BIGINT,
    CHECK ((status = 'pending') = (finished_at IS NULL)),
    CHECK (claim IS NULL OR status = 'pending')
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- One index finds the deliveries of an event and keeps its original ones unique; a replay has its own id in it.
CREATE UNIQUE INDEX deliveries_of_event ON deliveries (
    event_id, route, (CASE WHEN replay_of IS NULL THEN '' ELSE id END)
);
CREATE INDEX deliveries_due ON deliveries (route, due_at, id) WHERE status = 'pending';
CREATE INDEX deliveries_retrying ON deliveries (route, id) WHERE status = 'pending' AND attempts > 0;

-- Dead deliveries are few among many. An operator looks for them first, and an open alert about them closes once each
-- was delivered again.
CREATE INDEX deliveries_dead_newest ON deliveries (id) WHERE status = 'dead';
CREATE INDEX deliveries_dead ON deliveries (route, finished_at) WHERE status = 'dead';

-- A final verdict never changes; a replay is a new delivery that refers to the old one.
CREATE TRIGGER deliveries_end_is_final BEFORE UPDATE ON deliveries
FOR EACH ROW WHEN (OLD.status <> 'pending')
EXECUTE FUNCTION refuse_change('a final delivery never changes');

CREATE TABLE attempts (
    delivery_id TEXT COLLATE "C" NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 1),
    started_at BIGINT NOT NULL,
    duration BIGINT NOT NULL CHECK (duration >= 0),
    outcome TEXT COLLATE "C" NOT NULL,
    code INTEGER,
    reason TEXT NOT NULL,
    excerpt BYTEA NOT NULL,
    PRIMARY KEY (delivery_id, number)
);

CREATE TABLE routes (
    name TEXT COLLATE "C" PRIMARY KEY,
    failures INTEGER NOT NULL CHECK (failures >= 0),
    held_at BIGINT,
    held_by TEXT COLLATE "C" CHECK (held_by IN ('failures', 'operator')),
    held_why TEXT NOT NULL,
    probe_at BIGINT,
    released_at BIGINT,
    CHECK ((held_at IS NULL) = (held_by IS NULL))
);

-- The archived results, as an event lists them.
CREATE TABLE assets (
    event_id TEXT COLLATE "C" NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 0),
    url TEXT NOT NULL,
    path TEXT COLLATE "C",
    storage TEXT COLLATE "C",
    sha256 BYTEA NOT NULL CHECK (octet_length(sha256) = 32),
    bytes BIGINT NOT NULL CHECK (bytes >= 0),
    content_type TEXT NOT NULL,
    PRIMARY KEY (event_id, number),
    CHECK (path IS NOT NULL OR storage IS NOT NULL)
);

-- Archived files, objects and previews of deleted tasks that are still to be removed.
CREATE TABLE removals (
    place TEXT COLLATE "C" PRIMARY KEY,
    task_id TEXT COLLATE "C" NOT NULL
);

-- Requested replays and their progress: `cursor` is the last id processed.
CREATE TABLE replays (
    id TEXT COLLATE "C" PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    selection TEXT NOT NULL CHECK (selection IS JSON),
    actor TEXT COLLATE "C" NOT NULL,
    why TEXT NOT NULL,
    last TEXT COLLATE "C" NOT NULL,
    total INTEGER NOT NULL CHECK (total >= 0),
    created_at BIGINT NOT NULL,
    rate_count INTEGER CHECK (rate_count >= 1),
    rate_per BIGINT CHECK (rate_per >= 1),
    cursor TEXT COLLATE "C" NOT NULL,
    created INTEGER NOT NULL CHECK (created >= 0),
    finished_at BIGINT,
    CHECK ((state = 'running') = (finished_at IS NULL)),
    CHECK ((rate_count IS NULL) = (rate_per IS NULL))
);

CREATE INDEX replays_running ON replays (id) WHERE state = 'running';

-- The audit log: actions of people, such as holding a route or replaying a delivery.
CREATE TABLE actions (
    seq BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    verb TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    reason TEXT NOT NULL
);

CREATE INDEX actions_of ON actions (subject, seq);

-- Totals that must survive a restart and the deletion of old data. `label` is a route or a unit, or empty.
CREATE TABLE counters (
    name TEXT COLLATE "C" NOT NULL CHECK (name IN ('callbacks_missed', 'deliveries_dead', 'spent')),
    label TEXT COLLATE "C" NOT NULL,
    total DOUBLE PRECISION NOT NULL CHECK (total >= 0),
    PRIMARY KEY (name, label)
);

CREATE FUNCTION count_dead_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO counters (name, label, total)
    VALUES ('deliveries_dead', CASE WHEN NEW.route LIKE 'reply:%' THEN 'reply' ELSE NEW.route END, 1)
    ON CONFLICT (name, label) DO UPDATE SET total = counters.total + 1;
    RETURN NULL;
END
$$;

CREATE TRIGGER deliveries_count_dead AFTER UPDATE OF status ON deliveries
FOR EACH ROW WHEN (NEW.status = 'dead')
EXECUTE FUNCTION count_dead_delivery();

-- A later report replaces the amounts of an earlier one. A counter never falls, so a correction to a lower amount is
-- not subtracted. The order of units is fixed, so that two transactions never wait for each other.
CREATE FUNCTION count_spent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO counters (name, label, total)
    SELECT 'spent', charge.key, GREATEST(0, charge.value::double precision - COALESCE(earlier.value, 0))
    FROM json_each_text(NEW.charges::json) AS charge
    LEFT JOIN (
        SELECT key, value::double precision AS value
        FROM json_each_text(CASE WHEN TG_OP = 'UPDATE' THEN OLD.charges ELSE '{}' END::json)
    ) AS earlier ON earlier.key = charge.key
    ORDER BY charge.key
    ON CONFLICT (name, label) DO UPDATE SET total = counters.total + excluded.total;
    RETURN NULL;
END
$$;

CREATE TRIGGER costs_count_spent AFTER INSERT OR UPDATE OF charges ON costs
FOR EACH ROW
EXECUTE FUNCTION count_spent();
