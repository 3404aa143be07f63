-- How long past tasks took, by kind: `samples` is a JSON list of seconds, the newest last.
CREATE TABLE durations (
    kind TEXT NOT NULL PRIMARY KEY,
    samples TEXT NOT NULL CHECK (json_valid(samples)),
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The ledger's lines of deleted tasks: what they cost, and what costs are summed by.
CREATE TABLE deleted_costs (
    task_id TEXT PRIMARY KEY NOT NULL,
    at INTEGER NOT NULL,
    charges TEXT NOT NULL CHECK (json_valid(charges)),
    endpoint TEXT,
    label TEXT,
    tags TEXT NOT NULL CHECK (json_valid(tags)),
    batch TEXT
) STRICT;

CREATE INDEX deleted_costs_at ON deleted_costs (at);

-- Archived files and objects of deleted tasks that are still to be removed.
CREATE TABLE removals (
    place TEXT PRIMARY KEY NOT NULL,
    task_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
