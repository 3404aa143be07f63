"""The OpenAPI 3.1 document of the admin API, served at ``/openapi.json``."""

from receiver import __version__
from receiver.domain.batches import BatchState
from receiver.domain.model import DeliveryStatus, Json, TaskState
from receiver.web.openapi.schemas import (
    ANYTHING,
    COUNT,
    FLAG,
    MAYBE_TEXT,
    SCHEMAS,
    TAGS,
    TEXT,
    a_list_of,
    an_object,
    named,
    one_of,
)
from receiver.web.params import DEFAULT_LIMIT, MAX_LIMIT


def _content(schema: Json, media_type: str = "application/json") -> Json:
    return {"content": {media_type: {"schema": schema}}}


def _responses(schema: Json, *, status: int = 200, media_type: str = "application/json") -> Json:
    return {
        str(status): {"description": "Success.", **_content(schema, media_type)},
        "default": {"description": "An error.", **_content(named("Problem"), "application/problem+json")},
    }


def _path_parameter(name: str, description: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": TEXT}


def _query_parameter(name: str, description: str, schema: Json = TEXT) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _query_list_parameter(name: str, description: str, schema: Json = TEXT) -> Json:
    return _query_parameter(name, description, {"type": "array", "items": schema})


def _list_operation(summary: str, item: str, *filters: Json) -> Json:
    paging = [
        _query_parameter(
            "limit", "Maximum number of items.", {**COUNT, "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        ),
        _query_parameter("cursor", "The previous page's `next`."),
    ]
    return {"summary": summary, "parameters": [*filters, *paging], "responses": _responses(a_list_of(item))}


def _get_operation(summary: str, schema: Json, *parameters: Json) -> Json:
    return {"summary": summary, "parameters": list(parameters), "responses": _responses(schema)}


def _public_operation(summary: str, responses: Json) -> Json:
    return {"summary": summary, "security": [], "responses": responses}


_REASON_BODY: Json = an_object((), why={**TEXT, "description": "Reason, for the audit log."})


def _action_operation(summary: str, schema: Json, *parameters: Json, status: int = 200) -> Json:
    return {
        "summary": summary,
        "parameters": list(parameters),
        "requestBody": _content(_REASON_BODY),
        "responses": _responses(schema, status=status),
    }


_BATCH_NAME = _path_parameter("name", "Name of the batch.")
_ROUTE_NAME = _path_parameter("name", "Name of the route.")
_REPLAY_ID = _path_parameter("id", "ID of the replay.")

_PATHS: Json = {
    "/api/tasks": {
        "get": _list_operation(
            "List tasks, newest first",
            "Task",
            _query_list_parameter("state", "Only these states.", one_of(list(TaskState))),
            _query_parameter("endpoint", "Only this endpoint."),
            _query_parameter("label", "Only this label."),
            _query_list_parameter("tag", "Only this tag, written key:value."),
            _query_parameter("batch", "Only this batch."),
        ),
        "post": {
            "summary": "Submit a task; it is sent to Kling when a slot is free",
            "requestBody": {"required": True, **_content(named("SubmitRequest"))},
            "responses": _responses(named("Task"), status=202),
        },
    },
    "/api/tasks/counts": {
        "get": _get_operation(
            "Count tasks by state",
            an_object(("counts",), counts={"type": "object", "additionalProperties": COUNT}),
            _query_list_parameter("tag", "Only this tag, written key:value."),
            _query_parameter("batch", "Only this batch."),
        ),
    },
    "/api/tasks/{ref}": {
        "get": _get_operation(
            "Show a task", named("Task"), _path_parameter("ref", "The task's ID: ours, Kling's, or the external one.")
        ),
    },
    "/api/tasks/{ref}/explain": {
        "get": _get_operation(
            "Explain a task: its request, pushes, events, deliveries and attempts, and the next step",
            named("TaskExplanation"),
            _path_parameter("ref", "The task's ID: ours, Kling's, or the external one."),
        ),
    },
    "/api/tasks/{ref}/cancel": {
        "post": _action_operation(
            "Cancel a queued task; 409 if Kling may already have it",
            named("Task"),
            _path_parameter("ref", "The task's ID: ours, Kling's, or the external one."),
        ),
    },
    "/api/endpoints": {
        "get": {"summary": "List Kling's endpoints", "responses": _responses(a_list_of("Endpoint"))},
    },
    "/api/callback-urls": {
        "post": {
            "summary": "Create a callback URL for a task that is submitted elsewhere; only this response contains it",
            "requestBody": _content(an_object((), label=MAYBE_TEXT, tags=TAGS, endpoint=MAYBE_TEXT)),
            "responses": _responses(
                an_object(("task", "callback_url"), task=named("Task"), callback_url=TEXT), status=201
            ),
        },
    },
    "/api/callback-urls/{ref}/revoke": {
        "post": {
            "summary": "Revoke a task's callback URL; the task is still polled",
            "parameters": [_path_parameter("ref", "The task's ID: ours, Kling's, or the external one.")],
            "responses": _responses(named("Task")),
        },
    },
    "/api/batches": {
        "get": _list_operation(
            "List batches, newest first",
            "Batch",
            _query_list_parameter("state", "Only these states.", one_of(list(BatchState))),
        ),
    },
    "/api/batches/{name}": {"get": _get_operation("Show a batch", named("Batch"), _BATCH_NAME)},
    "/api/batches/{name}/close": {
        "post": _action_operation(
            "Close a batch: it accepts no more tasks, and is finished when all its tasks are",
            named("Batch"),
            _BATCH_NAME,
        ),
    },
    "/api/costs": {
        "get": _get_operation(
            "Sum the costs of tasks, by a grouping and in total",
            an_object(
                ("by", "from", "to", "items", "left_out", "total"),
                by=TEXT,
                **{"from": MAYBE_TEXT},
                to=MAYBE_TEXT,
                items={"type": "array", "items": named("CostTotal")},
                left_out=COUNT,
                total=named("CostTotal"),
            ),
            _query_parameter("by", "tag:NAME, endpoint, day, label or batch; default: endpoint."),
            _query_parameter("from", "Only tasks that ended at or after this time."),
            _query_parameter("to", "Only tasks that ended before this time."),
        ),
    },
    "/api/events": {
        "get": _list_operation(
            "List events, newest first; with `after`, oldest first",
            "Event",
            _query_list_parameter("type", "Only these types."),
            _query_parameter("task", "Only this task, by any of its IDs."),
            _query_parameter("batch", "Only tasks of this batch."),
            _query_parameter("after", "Only events newer than the one with this ID."),
        ),
    },
    "/api/events/{id}": {
        "get": _get_operation("Show an event", named("Event"), _path_parameter("id", "ID of the event."))
    },
    "/api/deliveries": {
        "get": _list_operation(
            "List deliveries, newest first",
            "Delivery",
            _query_list_parameter("status", "Only these statuses.", one_of(list(DeliveryStatus))),
            _query_parameter("route", "Only this route."),
            _query_parameter("task", "Only this task, by any of its IDs."),
            _query_parameter("event", "Only this event."),
        ),
    },
    "/api/deliveries/{id}": {
        "get": _get_operation(
            "Show a delivery and its attempts", named("Delivery"), _path_parameter("id", "ID of the delivery.")
        ),
    },
    "/api/deliveries/{id}/retry": {
        "post": _action_operation(
            "Retry a pending delivery now; for a finished one, create a new delivery that refers to it",
            named("Delivery"),
            _path_parameter("id", "ID of the delivery."),
            status=202,
        ),
    },
    "/api/replays": {
        "get": _list_operation("List replays, newest first", "Replay"),
        "post": {
            "summary": "Deliver past events again; with `dry_run`, only preview it",
            "requestBody": {"required": True, **_content(named("ReplayRequest"))},
            "responses": {**_responses(named("ReplayPreview")), **_responses(named("Replay"), status=202)},
        },
    },
    "/api/replays/{id}": {"get": _get_operation("Show a replay and its progress", named("Replay"), _REPLAY_ID)},
    "/api/replays/{id}/cancel": {
        "post": _action_operation(
            "Cancel a replay; deliveries it has already created continue", named("Replay"), _REPLAY_ID
        ),
    },
    "/api/routes": {
        "get": {"summary": "List routes and their state", "responses": _responses(a_list_of("Route"))},
    },
    "/api/routes/{name}/hold": {
        "post": _action_operation(
            "Hold a route until it is released; its deliveries stay pending", named("Route"), _ROUTE_NAME
        ),
    },
    "/api/routes/{name}/release": {
        "post": _action_operation(
            "Release a route, whether an operator or the service held it", named("Route"), _ROUTE_NAME
        ),
    },
    "/api/routes/{name}/test": {
        "post": {
            "summary": "Send a sample event to a route once; nothing is stored",
            "parameters": [_ROUTE_NAME],
            "responses": _responses(named("RouteTestOutcome")),
        },
    },
    "/api/stream": {
        "get": {
            "summary": "Follow events as they happen (server-sent events)",
            "parameters": [
                _query_parameter(
                    "after", "Start after the event with this ID; the Last-Event-ID header does the same."
                ),
                _query_list_parameter("type", "Only these types."),
                _query_parameter("task", "Only this task, by any of its IDs."),
            ],
            "responses": _responses(TEXT, media_type="text/event-stream"),
        },
    },
    "/openapi.json": {"get": {"summary": "This document", "responses": _responses(ANYTHING)}},
    "/healthz": {"get": _public_operation("Check that the service responds", _responses(an_object(("ok",), ok=FLAG)))},
    "/readyz": {
        "get": _public_operation(
            "Check that the service is ready; 503 if not",
            _responses(an_object(("ready", "checks"), ready=FLAG, checks={"type": "array", "items": named("Check")})),
        ),
    },
}

OPENAPI_DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Kling Receiver",
        "version": __version__,
        "description": "The admin API. Kling's own API is served at /kling/, as Kling documents it."
        " Headers set the label, tags and batch of a task created there: kling-receiver-label,"
        " kling-receiver-tags (project=ads, team=a), kling-receiver-batch (spring).",
    },
    "security": [{"token": []}],
    "paths": _PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}
