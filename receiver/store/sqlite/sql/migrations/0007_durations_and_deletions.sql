-- How long past tasks took, by kind: `samples` is a JSON list of seconds, the newest last.
CREATE TABLE durations (
    kind TEXT NOT NULL PRIMARY KEY,
    samples TEXT NOT NULL CHECK (json_valid(samples)),
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The ledger's lines of deleted tasks: what they cost, what costs are summed by, and what Kling's ledgers know them by.
CREATE TABLE deleted_costs (
    task_id TEXT PRIMARY KEY NOT NULL,
    kling_id TEXT,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    charges TEXT CHECK (charges IS NULL OR json_valid(charges)),
    endpoint TEXT,
    label TEXT,
    tags TEXT NOT NULL CHECK (json_valid(tags)),
    batch TEXT
) STRICT;

CREATE INDEX deleted_costs_at ON deleted_costs (at);
CREATE INDEX deleted_costs_of_kling ON deleted_costs (kling_id) WHERE kling_id IS NOT NULL;

-- Archived files, objects and previews of deleted tasks that are still to be removed.
CREATE TABLE removals (
    place TEXT PRIMARY KEY NOT NULL,
    task_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
