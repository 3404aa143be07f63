-- Fewer bytes and fewer indexes for each callback. A callback's body is stored once: with its event, if it has one.

-- The ids of pushes are looked up within their task alone, so that one index serves both.
CREATE TABLE pushes_by_task (
    id TEXT NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    source TEXT NOT NULL CHECK (source IN ('callback', 'poll', 'submit', 'receiver')),
    headers TEXT NOT NULL CHECK (json_valid(headers)),
    body BLOB,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    received_at INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN (
        'pending', 'applied', 'duplicate', 'stale', 'mismatch', 'unrecognized', 'forged'
    )),
    PRIMARY KEY (task_id, id),
    CHECK (body IS NOT NULL OR outcome <> 'pending')
) STRICT;

INSERT INTO pushes_by_task (id, task_id, source, headers, body, digest, received_at, outcome)
SELECT id, task_id, source, headers, body, digest, received_at, outcome
FROM pushes
ORDER BY id;

DROP TABLE pushes;

ALTER TABLE pushes_by_task RENAME TO pushes;

CREATE INDEX pushes_pending ON pushes (task_id, id) WHERE outcome = 'pending';
CREATE INDEX pushes_with_body ON pushes (received_at) WHERE body IS NOT NULL AND outcome <> 'pending';

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

CREATE TABLE attempts_by_delivery (
    delivery_id TEXT NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 1),
    started_at INTEGER NOT NULL,
    duration INTEGER NOT NULL CHECK (duration >= 0),
    outcome TEXT NOT NULL,
    code INTEGER,
    reason TEXT NOT NULL,
    excerpt BLOB NOT NULL,
    PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

INSERT INTO attempts_by_delivery (delivery_id, number, started_at, duration, outcome, code, reason, excerpt)
SELECT delivery_id, number, started_at, duration, outcome, code, reason, excerpt
FROM attempts
ORDER BY delivery_id, number;

DROP TABLE attempts;

ALTER TABLE attempts_by_delivery RENAME TO attempts;

-- One index finds the deliveries of an event and keeps its original ones unique; a replay has its own id in it.
DROP INDEX deliveries_once;
DROP INDEX deliveries_of_event;

CREATE UNIQUE INDEX deliveries_of_event ON deliveries (
    event_id, route, (CASE WHEN replay_of IS NULL THEN '' ELSE id END)
);

-- Hardly any two tasks have the same id of Kling's or of the client, so the order within one costs no index.
DROP INDEX tasks_by_kling_id;
DROP INDEX tasks_by_external_id;

CREATE INDEX tasks_by_kling_id ON tasks (kling_id) WHERE kling_id IS NOT NULL;
CREATE INDEX tasks_by_external_id ON tasks (external_task_id) WHERE external_task_id IS NOT NULL;
