-- New events and pushes are compressed with Zstandard. An older program could not read them, so it refuses this version.
COMMENT ON COLUMN events.body IS 'compressed with Zstandard';
COMMENT ON COLUMN pushes.body IS 'compressed with Zstandard';
