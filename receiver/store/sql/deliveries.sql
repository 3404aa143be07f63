-- Statements about deliveries: their queue, their attempts and the states of their routes.

-- name: due_routes
-- Finds when the next delivery of each route is due. It skips from route to route in the index instead of reading
-- the backlog, so a backlog of a million costs no more than one of ten.
WITH RECURSIVE waiting (route) AS (
    SELECT MIN(route)
    FROM deliveries
    WHERE status = 'pending'
    UNION ALL
    SELECT (
        SELECT MIN(deliveries.route)
        FROM deliveries
        WHERE deliveries.status = 'pending'
          AND deliveries.route > waiting.route
    )
    FROM waiting
    WHERE waiting.route IS NOT NULL
)
SELECT
    waiting.route,
    (
        SELECT MIN(deliveries.due_at)
        FROM deliveries
        WHERE deliveries.status = 'pending'
          AND deliveries.route = waiting.route
    ) AS due_at
FROM waiting
WHERE waiting.route IS NOT NULL;

-- name: suspect_deliveries
-- Finds the pending deliveries that were in flight at several deaths of the process, the least suspected first.
SELECT id, route
FROM deliveries
WHERE status = 'pending'
  AND unfinished_claims >= :at_least
ORDER BY unfinished_claims, due_at, id;

-- name: route_states
-- Reads the state of every route.
SELECT *
FROM routes;
