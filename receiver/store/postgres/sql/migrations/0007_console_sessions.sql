-- Sessions of the console. `key` is a hash: nothing in this table lets a browser in.
CREATE TABLE console_sessions (
    key BYTEA NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    role TEXT NOT NULL CHECK (role IN ('admin', 'reader')),
    name TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    notice TEXT NOT NULL DEFAULT ''
);

-- One-time links that start a session.
CREATE TABLE console_links (
    key BYTEA NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    role TEXT NOT NULL CHECK (role IN ('admin', 'reader')),
    name TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
