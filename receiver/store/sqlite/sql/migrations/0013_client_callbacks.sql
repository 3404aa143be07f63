-- What a client's own callback URL receives: every status, or one request with the end. `ended`: its delivery is stored.
ALTER TABLE tasks ADD COLUMN client_callbacks TEXT NOT NULL DEFAULT 'all' CHECK (
    client_callbacks IN ('all', 'final', 'ended')
);

-- The end is sent to a client's URL once.
CREATE TRIGGER tasks_client_has_ended BEFORE UPDATE OF client_callbacks ON tasks
WHEN OLD.client_callbacks = 'ended' AND NEW.client_callbacks <> 'ended'
BEGIN
    SELECT RAISE(ABORT, 'a client receives the end of its task once');
END;
