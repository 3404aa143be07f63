"""The admin listener's API described for machines (OpenAPI 3.1), at ``/openapi.json``."""

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
        str(status): {"description": "As asked.", **_content(schema, media_type)},
        "default": {"description": "A problem.", **_content(named("Problem"), "application/problem+json")},
    }


def _path_parameter(name: str, description: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": TEXT}


def _query_parameter(name: str, description: str, schema: Json = TEXT) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _query_list_parameter(name: str, description: str, schema: Json = TEXT) -> Json:
    return _query_parameter(name, description, {"type": "array", "items": schema})


def _list_operation(summary: str, item: str, *filters: Json) -> Json:
    paging = [
        _query_parameter("limit", "How many.", {**COUNT, "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
        _query_parameter("cursor", "The former page's `next`."),
    ]
    return {"summary": summary, "parameters": [*filters, *paging], "responses": _responses(a_list_of(item))}


def _get_operation(summary: str, schema: Json, *parameters: Json) -> Json:
    return {"summary": summary, "parameters": list(parameters), "responses": _responses(schema)}


def _public_operation(summary: str, responses: Json) -> Json:
    return {"summary": summary, "security": [], "responses": responses}


_REASON_BODY: Json = an_object((), why={**TEXT, "description": "For the record."})


def _action_operation(summary: str, schema: Json, *parameters: Json, status: int = 200) -> Json:
    return {
        "summary": summary,
        "parameters": list(parameters),
        "requestBody": _content(_REASON_BODY),
        "responses": _responses(schema, status=status),
    }


_BATCH_NAME = _path_parameter("name", "The batch's name.")
_ROUTE_NAME = _path_parameter("name", "The route's name.")
_REPLAY_ID = _path_parameter("id", "The replay's id.")

_PATHS: Json = {
    "/api/tasks": {
        "get": _list_operation(
            "List tasks, newest first",
            "Task",
            _query_list_parameter("state", "In one of these states.", one_of(list(TaskState))),
            _query_parameter("endpoint", "Of this endpoint."),
            _query_parameter("label", "Of this label."),
            _query_list_parameter("tag", "With this tag, written key:value."),
            _query_parameter("batch", "Of this batch."),
        ),
        "post": {
            "summary": "Hand a job in; it is sent to Kling when a slot is free",
            "requestBody": {"required": True, **_content(named("SubmitRequest"))},
            "responses": _responses(named("Task"), status=202),
        },
    },
    "/api/tasks/counts": {
        "get": _get_operation(
            "Count tasks by state",
            an_object(("counts",), counts={"type": "object", "additionalProperties": COUNT}),
            _query_list_parameter("tag", "With this tag, written key:value."),
            _query_parameter("batch", "Of this batch."),
        ),
    },
    "/api/tasks/{ref}": {
        "get": _get_operation(
            "Show a task", named("Task"), _path_parameter("ref", "Our id, Kling's, or the external one.")
        ),
    },
    "/api/tasks/{ref}/explain": {
        "get": _get_operation(
            "Tell a task's whole story: what was wanted, arrived, was decided and tried, and what comes next",
            named("TaskExplanation"),
            _path_parameter("ref", "Our id, Kling's, or the external one."),
        ),
    },
    "/api/tasks/{ref}/cancel": {
        "post": _action_operation(
            "Cancel a task that waits to be sent; 409 where Kling may have it already",
            named("Task"),
            _path_parameter("ref", "Our id, Kling's, or the external one."),
        ),
    },
    "/api/endpoints": {
        "get": {"summary": "List what Kling can be asked for", "responses": _responses(a_list_of("Endpoint"))},
    },
    "/api/callback-urls": {
        "post": {
            "summary": "Make a callback URL for a job that is submitted elsewhere; it is told once",
            "requestBody": _content(an_object((), label=MAYBE_TEXT, tags=TAGS, endpoint=MAYBE_TEXT)),
            "responses": _responses(
                an_object(("task", "callback_url"), task=named("Task"), callback_url=TEXT), status=201
            ),
        },
    },
    "/api/callback-urls/{ref}/revoke": {
        "post": {
            "summary": "Let a task's callback URL lead nowhere from now on; the task is followed by polling",
            "parameters": [_path_parameter("ref", "Our id, Kling's, or the external one.")],
            "responses": _responses(named("Task")),
        },
    },
    "/api/batches": {
        "get": _list_operation(
            "List batches, newest first",
            "Batch",
            _query_list_parameter("state", "In one of these states.", one_of(list(BatchState))),
        ),
    },
    "/api/batches/{name}": {"get": _get_operation("Show a batch", named("Batch"), _BATCH_NAME)},
    "/api/batches/{name}/close": {
        "post": _action_operation(
            "Close a batch: it takes no more tasks, and is finished when those it has are over",
            named("Batch"),
            _BATCH_NAME,
        ),
    },
    "/api/costs": {
        "get": _get_operation(
            "Sum what tasks have cost, by what they share, and all in all",
            an_object(
                ("items", "total"), items={"type": "array", "items": named("CostTotal")}, total=named("CostTotal")
            ),
            _query_parameter("by", "tag:NAME, endpoint, day, label or batch; endpoint if not given."),
            _query_parameter("from", "Of tasks that ended at this moment or later."),
            _query_parameter("to", "Of tasks that ended before this moment."),
        ),
    },
    "/api/events": {
        "get": _list_operation(
            "List events, newest first; after an event, oldest first",
            "Event",
            _query_list_parameter("type", "Of one of these types."),
            _query_parameter("task", "Of this task, by any of its ids."),
            _query_parameter("batch", "Of the tasks of this batch."),
            _query_parameter("after", "Newer than the event of this id."),
        ),
    },
    "/api/events/{id}": {
        "get": _get_operation("Show an event", named("Event"), _path_parameter("id", "The event's id."))
    },
    "/api/deliveries": {
        "get": _list_operation(
            "List deliveries, newest first",
            "Delivery",
            _query_list_parameter("status", "Of one of these statuses.", one_of(list(DeliveryStatus))),
            _query_parameter("route", "To this route."),
            _query_parameter("task", "Of this task, by any of its ids."),
            _query_parameter("event", "Of this event."),
        ),
    },
    "/api/deliveries/{id}": {
        "get": _get_operation(
            "Show a delivery and its attempts", named("Delivery"), _path_parameter("id", "The delivery's id.")
        ),
    },
    "/api/deliveries/{id}/retry": {
        "post": _action_operation(
            "Try a delivery now: itself while it waits, else anew as a delivery that points at it",
            named("Delivery"),
            _path_parameter("id", "The delivery's id."),
            status=202,
        ),
    },
    "/api/replays": {
        "get": _list_operation("List replays, newest first", "Replay"),
        "post": {
            "summary": "Bring out again what is over; with dry_run only say what that would be",
            "requestBody": {"required": True, **_content(named("ReplayRequest"))},
            "responses": {**_responses(named("ReplayPreview")), **_responses(named("Replay"), status=202)},
        },
    },
    "/api/replays/{id}": {"get": _get_operation("Show a replay and how far it has come", named("Replay"), _REPLAY_ID)},
    "/api/replays/{id}/cancel": {
        "post": _action_operation("Stop a replay; what it has brought out goes on", named("Replay"), _REPLAY_ID),
    },
    "/api/routes": {
        "get": {"summary": "List routes, and how each fares", "responses": _responses(a_list_of("Route"))},
    },
    "/api/routes/{name}/hold": {
        "post": _action_operation("Hold a route until it is released; its events wait", named("Route"), _ROUTE_NAME),
    },
    "/api/routes/{name}/release": {
        "post": _action_operation("Let a route go on, whatever held it", named("Route"), _ROUTE_NAME),
    },
    "/api/routes/{name}/test": {
        "post": {
            "summary": "Send a made-up success through a route, once; nothing is stored",
            "parameters": [_ROUTE_NAME],
            "responses": _responses(named("Attempt")),
        },
    },
    "/api/stream": {
        "get": {
            "summary": "Follow events as they happen (server-sent events)",
            "parameters": [
                _query_parameter("after", "Begin after the event of this id; a Last-Event-ID header does the same."),
                _query_list_parameter("type", "Of one of these types."),
                _query_parameter("task", "Of this task, by any of its ids."),
            ],
            "responses": _responses(TEXT, media_type="text/event-stream"),
        },
    },
    "/openapi.json": {"get": {"summary": "This description", "responses": _responses(ANYTHING)}},
    "/healthz": {"get": _public_operation("Whether the service answers", _responses(an_object(("ok",), ok=FLAG)))},
    "/readyz": {
        "get": _public_operation(
            "Whether the service can do its work; 503 when not",
            _responses(an_object(("ready", "checks"), ready=FLAG, checks={"type": "array", "items": ANYTHING})),
        ),
    },
}

OPENAPI_DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Kling Receiver",
        "version": __version__,
        "description": "The admin listener. Kling's own API is passed through at /kling/, as Kling documents it."
        " What a task made there is to be known by can be said in headers: kling-receiver-label,"
        " kling-receiver-tags (project=ads, team=a), kling-receiver-batch (spring).",
    },
    "security": [{"token": []}],
    "paths": _PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}
