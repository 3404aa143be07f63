-- The process whose session the other nodes can see: the holder of the lease, while it keeps a session open only for
-- that. If that session ends, the lease ends at once.
ALTER TABLE leases ADD COLUMN session_instance TEXT;

-- The key of the lock that a session of a process holds.
CREATE FUNCTION session_key(instance TEXT) RETURNS BIGINT
    LANGUAGE sql IMMUTABLE
    RETURN hashtextextended('session ' || instance, 0);

-- Whether a process holds its lock. Every role may read the list of locks, but not that of sessions.
CREATE FUNCTION has_session(instance TEXT) RETURNS BOOLEAN
    LANGUAGE sql VOLATILE
    RETURN EXISTS (
        SELECT
        FROM pg_locks
        WHERE locktype = 'advisory'
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND objsubid = 1
          AND granted
          AND ((classid::BIGINT << 32) | objid::BIGINT) = session_key(instance)
    );

-- With the number of a lease in a key, taking the lease conflicts with FOR KEY SHARE, and renewing it does not.
CREATE UNIQUE INDEX leases_number ON leases (duty, epoch);
