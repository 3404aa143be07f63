-- How long past tasks took.

-- name: durations
-- Lists the durations of past tasks, the kind that changed longest ago first.
SELECT kind, samples
FROM durations
ORDER BY updated_at, kind;

-- name: trim_durations
-- Deletes the durations of all kinds but the *keep* that changed last.
DELETE FROM durations
WHERE kind NOT IN (
    SELECT kind
    FROM durations
    ORDER BY updated_at DESC, kind
    LIMIT :keep
);
