-- The digest of a request with an idempotency key, so that the same key with another body is noticed.
CREATE TABLE request_digests (
    task_id TEXT PRIMARY KEY NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;
