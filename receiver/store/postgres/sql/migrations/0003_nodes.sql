-- The nodes that share this database, their leases on duties, and the calls between them. All times are those of the
-- database's clock, so the clocks of the nodes do not matter.

CREATE FUNCTION micros_now() RETURNS BIGINT
    LANGUAGE sql VOLATILE
    RETURN (extract(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT;

-- One row per name. An instance is one process; a name belongs to one process at a time.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    instance TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- One row per duty. Each change of the holder raises the epoch. A lease without an instance was given back.
CREATE TABLE leases (
    duty TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    node TEXT,
    instance TEXT,
    until BIGINT NOT NULL DEFAULT 0,
    CHECK ((node IS NULL) = (instance IS NULL))
);

-- Requests of one node to the holder of a duty. They end with their callers, so a crash of the server may empty it.
CREATE UNLOGGED TABLE calls (
    id TEXT PRIMARY KEY,
    duty TEXT NOT NULL,
    kind TEXT NOT NULL,
    arguments BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    wanted_at BIGINT NOT NULL, -- when the caller last waited for the answer
    taken_by TEXT, -- the instance of the holder that serves it
    answer BYTEA
);

CREATE INDEX calls_to_take ON calls (duty, created_at) WHERE taken_by IS NULL;
