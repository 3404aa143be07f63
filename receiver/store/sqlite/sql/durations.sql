-- How long past tasks took.

-- name: save_durations
-- Replaces the durations of a kind.
INSERT INTO durations (kind, samples, updated_at)
VALUES (?, ?, ?)
ON CONFLICT (kind) DO UPDATE SET samples = excluded.samples, updated_at = excluded.updated_at;
