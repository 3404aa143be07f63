-- Replays: their selections and their progress.

-- name: replay_high_water_mark
-- Finds the newest delivery and the newest event.
SELECT
    (SELECT MAX(id) FROM deliveries) AS delivery,
    (SELECT MAX(id) FROM events) AS event;

-- name: advance_replay
-- Advances a running replay, if its cursor is unchanged.
UPDATE replays
SET cursor = :after, created = created + :made, state = :state, finished_at = :finished_at
WHERE id = :id
  AND state = 'running'
  AND cursor = :before;

-- name: cancel_replay
-- Cancels a running replay.
UPDATE replays
SET state = 'cancelled', finished_at = :now
WHERE id = :id
  AND state = 'running';

-- name: replay
-- Reads a replay.
SELECT *
FROM replays
WHERE id = :id;

-- name: running_replays
-- Lists the running replays, oldest first.
SELECT *
FROM replays
WHERE state = 'running'
ORDER BY id;

-- name: list_replays
-- Lists replays, newest first.
SELECT *
FROM replays
WHERE TRUE
  AND id < :cursor -- if cursor
ORDER BY id DESC
LIMIT :limit;
