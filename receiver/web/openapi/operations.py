"""The operations of the admin API: what each one does, accepts and returns."""

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from receiver.domain.api_schema import alerts, costs, resources, tasks
from receiver.domain.api_schema.backtests import Backtest
from receiver.domain.api_schema.config import ConfigChanges
from receiver.domain.api_schema.console import ConsoleLink
from receiver.domain.api_schema.events import Event
from receiver.domain.api_schema.json_object import Page
from receiver.web import api_requests as requests
from receiver.web.api_requests import ActionRequest, Body, NoQuery, Query


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of a path. ``id`` is its stable name for generated clients: a verb and a noun.

    ``returns`` has the type of each successful response; None is a text of ``media_type``. ``errors`` are those that
    no other operation of its kind has.
    """

    id: str
    summary: str
    returns: Mapping[HTTPStatus, type[Any] | None]
    query: type[Query] = NoQuery
    body: type[Body] | None = None
    media_type: str = "text/event-stream"
    errors: Collection[HTTPStatus] = ()
    is_public: bool = False


def _get(
    id_: str,
    summary: str,
    returns: type[Any] | None,
    query: type[Query] = NoQuery,
    *,
    errors: Collection[HTTPStatus] = (),
) -> Operation:
    return Operation(id=id_, summary=summary, returns={HTTPStatus.OK: returns}, query=query, errors=errors)


def _post(
    id_: str,
    summary: str,
    returns: type[Any],
    body: type[Body] | None = ActionRequest,
    status: HTTPStatus = HTTPStatus.OK,
    *,
    errors: Collection[HTTPStatus] = (),
) -> Operation:
    return Operation(id=id_, summary=summary, returns={status: returns}, body=body, errors=errors)


_CONFLICT = [HTTPStatus.CONFLICT]
_INVALID = [HTTPStatus.UNPROCESSABLE_ENTITY]
_KLING = [HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT]
_RANGE = [HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE]

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/api/tasks": {
        "get": _get("listTasks", "List tasks, newest first", Page[tasks.Task], requests.TaskQuery),
        "post": Operation(
            id="submitTask",
            summary="Submit a task; it is sent to Kling when a slot is free. 422 if Kling refused it",
            body=requests.SubmitRequest,
            returns={
                HTTPStatus.ACCEPTED: tasks.SubmittedTask,
                HTTPStatus.UNPROCESSABLE_ENTITY: resources.TaskRefused,
            },
            errors=_CONFLICT,
        ),
    },
    "/api/tasks/counts": {
        "get": _get("countTasks", "Count tasks by state", resources.TaskCounts, requests.TaskCountQuery),
    },
    "/api/tasks/{ref}": {
        "get": _get("getTask", "Show a task", tasks.TaskDetails),
        "delete": _get(
            "deleteTask",
            "Delete an ended task with everything stored about it; its costs stay in the sums. 409 for any other",
            tasks.TaskDeletion,
            requests.DeletionQuery,
            errors=_CONFLICT,
        ),
    },
    "/api/tasks/{ref}/explain": {
        "get": _get(
            "explainTask",
            "Explain a task: its request, pushes, events, deliveries and attempts, and the next step",
            resources.TaskExplanation,
        ),
    },
    "/api/tasks/{ref}/cancel": {
        "post": _post(
            "cancelTask", "Cancel a queued task; 409 if Kling may already have it", tasks.Task, errors=_CONFLICT
        ),
    },
    "/api/tasks/{ref}/retry": {
        "post": _post(
            "retryTask",
            "Submit a failed, rejected, cancelled or expired task again as a new one, tagged `retry_of`; else 409",
            tasks.SubmittedTask,
            requests.ActionRequest,
            HTTPStatus.ACCEPTED,
            errors=_CONFLICT,
        ),
    },
    "/api/endpoints": {
        "get": _get("listEndpoints", "List Kling's endpoints", Page[resources.Endpoint]),
    },
    "/api/callback-urls": {
        "post": _post(
            "createCallbackUrl",
            "Create a callback URL for a task that is submitted elsewhere; only this response contains it",
            resources.CallbackUrl,
            requests.CallbackUrlRequest,
            HTTPStatus.CREATED,
            errors=_CONFLICT,
        ),
    },
    "/api/callback-urls/{ref}/revoke": {
        "post": _post("revokeCallbackUrl", "Revoke a task's callback URL; the task is still polled", tasks.Task, None),
    },
    "/api/batches": {
        "get": _get("listBatches", "List batches, newest first", Page[tasks.Batch], requests.BatchQuery),
    },
    "/api/batches/{name}": {
        "get": _get("getBatch", "Show a batch", tasks.Batch),
    },
    "/api/batches/{name}/close": {
        "post": _post(
            "closeBatch", "Close a batch: it accepts no more tasks, and is finished when all its tasks are", tasks.Batch
        ),
    },
    "/api/costs/check": {
        "post": _post(
            "checkCosts",
            "Compare Kling's ledgers with the stored costs",
            costs.BillReport,
            requests.BillCheckRequest,
            errors=_KLING,
        ),
    },
    "/api/costs/estimate": {
        "post": _post(
            "estimateCost",
            "Estimate the cost of a task from past charges; nothing is submitted",
            costs.CostEstimate,
            requests.EstimateRequest,
        ),
    },
    "/api/costs": {
        "get": _get(
            "sumCosts", "Sum the costs of tasks, by a grouping and in total", costs.CostReport, requests.CostQuery
        ),
    },
    "/api/events": {
        "get": _get(
            "listEvents", "List events, newest first; with `after`, oldest first", Page[Event], requests.EventQuery
        ),
    },
    "/api/events/{id}": {
        "get": _get("getEvent", "Show an event", Event),
    },
    "/api/deliveries": {
        "get": _get(
            "listDeliveries", "List deliveries, newest first", Page[resources.Delivery], requests.DeliveryQuery
        ),
    },
    "/api/deliveries/{id}": {
        "get": _get("getDelivery", "Show a delivery and its attempts", resources.DeliveryDetails),
    },
    "/api/deliveries/{id}/retry": {
        "post": _post(
            "retryDelivery",
            "Retry a pending delivery now; for a finished one, create a new delivery that refers to it",
            resources.Delivery,
            status=HTTPStatus.ACCEPTED,
            errors=_CONFLICT,
        ),
    },
    "/api/alerts": {
        "get": _get("listAlerts", "List alerts, newest first", Page[alerts.TrackedAlert], requests.AlertQuery),
    },
    "/api/alerts/{id}": {
        "get": _get("getAlert", "Show an alert", alerts.TrackedAlert),
    },
    "/api/alerts/{id}/ack": {
        "post": _post(
            "acknowledgeAlert",
            "Acknowledge an alert: it stays quiet until it changes; 409 if it is closed",
            alerts.TrackedAlert,
            requests.AcknowledgeRequest,
            errors=_CONFLICT,
        ),
    },
    "/api/replays": {
        "get": _get("listReplays", "List replays, newest first", Page[resources.Replay], requests.PageQuery),
        "post": Operation(
            id="createReplay",
            summary="Deliver past events again; with `dry_run`, only preview it",
            body=requests.ReplayRequest,
            returns={HTTPStatus.OK: resources.ReplayPreview, HTTPStatus.ACCEPTED: resources.Replay},
        ),
    },
    "/api/replays/{id}": {
        "get": _get("getReplay", "Show a replay and its progress", resources.Replay),
    },
    "/api/replays/{id}/cancel": {
        "post": _post(
            "cancelReplay",
            "Cancel a replay; deliveries it has already created continue",
            resources.Replay,
            errors=_CONFLICT,
        ),
    },
    "/api/routes": {
        "get": _get("listRoutes", "List routes and their state", Page[resources.Route]),
    },
    "/api/routes/{name}/hold": {
        "post": _post("holdRoute", "Hold a route until it is released; its deliveries stay pending", resources.Route),
    },
    "/api/routes/{name}/release": {
        "post": _post("releaseRoute", "Release a route, whether an operator or the service held it", resources.Route),
    },
    "/api/routes/{name}/test": {
        "post": _post(
            "testRoute",
            "Send a sample event to a route once; nothing is stored",
            resources.RouteTestOutcome,
            requests.RouteTestRequest,
        ),
    },
    "/api/routes/{name}/backtest": {
        "post": _post(
            "backtestRoute",
            "Show what a route would do with stored events; nothing is sent",
            Backtest,
            requests.BacktestRequest,
        ),
    },
    "/api/trigger": {
        "post": _post(
            "triggerTask",
            "Send a test task through the routes, marked as a test",
            tasks.Task,
            requests.TriggerRequest,
            HTTPStatus.CREATED,
        ),
    },
    "/api/stream": {
        "get": _get("followEvents", "Follow events as they happen (server-sent events)", None, requests.StreamQuery),
    },
    "/results/{task}/{file}": {
        "get": Operation(
            id="getResult",
            summary="Download an archived file, or a range of it",
            returns={HTTPStatus.OK: None, HTTPStatus.PARTIAL_CONTENT: None},
            media_type="*/*",
            errors=_RANGE,
        ),
    },
    "/api/diagnostics": {
        "get": _get(
            "getDiagnostics", "Show the running process: versions, limits and readiness", resources.Diagnostics
        ),
    },
    "/api/nodes": {
        "get": _get("listNodes", "List the processes that use the database, with their duties", Page[resources.Node]),
    },
    "/api/probes": {
        "post": _post(
            "createProbe",
            "Register a probe of the public URL: a callback path that is answered once, within a minute",
            resources.Probe,
            requests.EmptyBody,
            HTTPStatus.CREATED,
        ),
    },
    "/api/console/links": {
        "post": _post(
            "createConsoleLink",
            "Create a link that logs a browser in to the console: once, within a minute",
            ConsoleLink,
            requests.EmptyBody,
            HTTPStatus.CREATED,
        ),
    },
    "/api/config/diff": {
        "get": _get(
            "diffConfig",
            "Show what a reload of the configuration would change; 422 if the file is invalid",
            ConfigChanges,
            errors=_INVALID,
        ),
    },
    "/api/config/reload": {
        "post": _post(
            "reloadConfig",
            "Read the configuration again and apply what can change; 422 if the file is invalid, and nothing changes",
            ConfigChanges,
            requests.EmptyBody,
            errors=_INVALID,
        ),
    },
    "/metrics": {
        "get": Operation(
            id="getMetrics",
            summary="Show all metrics, in Prometheus' text format or as OpenMetrics",
            returns={HTTPStatus.OK: None},
            media_type="text/plain",
        ),
    },
    "/openapi.json": {
        "get": _get("getOpenApi", "This document", resources.OpenApiDocument),
    },
    "/healthz": {
        "get": Operation(
            id="checkLiveness",
            summary="Check that the service responds",
            returns={HTTPStatus.OK: resources.Liveness},
            is_public=True,
        ),
    },
    "/readyz": {
        "get": Operation(
            id="checkReadiness",
            summary="Check that the service is ready; 503 if not",
            returns={
                HTTPStatus.OK: resources.Readiness,
                HTTPStatus.SERVICE_UNAVAILABLE: resources.Readiness,
            },
            is_public=True,
        ),
    },
}
