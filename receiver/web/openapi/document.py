"""The admin listener's API described for machines (OpenAPI 3.1), at ``/openapi.json``."""

from receiver import __version__
from receiver.domain.model import DeliveryStatus, Json, TaskState
from receiver.domain.replays import BatchState
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
from receiver.web.params import DEFAULT_LIMIT, MOST


def _content(schema: Json, media_type: str = "application/json") -> Json:
    return {"content": {media_type: {"schema": schema}}}


def _answers(schema: Json, *, status: int = 200, media_type: str = "application/json") -> Json:
    return {
        str(status): {"description": "As asked.", **_content(schema, media_type)},
        "default": {"description": "A problem.", **_content(named("Problem"), "application/problem+json")},
    }


def _in_path(name: str, meaning: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": TEXT}


def _asked(name: str, meaning: str, schema: Json = TEXT) -> Json:
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def _asked_many(name: str, meaning: str, schema: Json = TEXT) -> Json:
    return _asked(name, meaning, {"type": "array", "items": schema})


def _listing(summary: str, item: str, *filters: Json) -> Json:
    paging = [
        _asked("limit", "How many.", {**COUNT, "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT}),
        _asked("cursor", "The former page's `next`."),
    ]
    return {"summary": summary, "parameters": [*filters, *paging], "responses": _answers(a_list_of(item))}


def _showing(summary: str, schema: Json, *parameters: Json) -> Json:
    return {"summary": summary, "parameters": list(parameters), "responses": _answers(schema)}


def _open(summary: str, answers: Json) -> Json:
    return {"summary": summary, "security": [], "responses": answers}


_WHY: Json = an_object((), why={**TEXT, "description": "For the record."})


def _doing(summary: str, schema: Json, *parameters: Json, status: int = 200) -> Json:
    return {
        "summary": summary,
        "parameters": list(parameters),
        "requestBody": _content(_WHY),
        "responses": _answers(schema, status=status),
    }


_BATCH_NAME = _in_path("name", "The batch's name.")
_ROUTE_NAME = _in_path("name", "The route's name.")
_REPLAY_ID = _in_path("id", "The replay's id.")

_PATHS: Json = {
    "/api/tasks": {
        "get": _listing(
            "List tasks, newest first",
            "Task",
            _asked_many("state", "In one of these states.", one_of(list(TaskState))),
            _asked("endpoint", "Of this endpoint."),
            _asked("label", "Of this label."),
            _asked_many("tag", "With this tag, written key:value."),
            _asked("batch", "Of this batch."),
        ),
        "post": {
            "summary": "Hand a job in; it is sent to Kling when a slot is free",
            "requestBody": {"required": True, **_content(named("Job"))},
            "responses": _answers(named("Task"), status=202),
        },
    },
    "/api/tasks/counts": {
        "get": _showing(
            "Count tasks by state",
            an_object(("counts",), counts={"type": "object", "additionalProperties": COUNT}),
            _asked_many("tag", "With this tag, written key:value."),
            _asked("batch", "Of this batch."),
        ),
    },
    "/api/tasks/{ref}": {
        "get": _showing("Show a task", named("Task"), _in_path("ref", "Our id, Kling's, or the external one.")),
    },
    "/api/tasks/{ref}/explain": {
        "get": _showing(
            "Tell a task's whole story: what was wanted, arrived, was decided and tried, and what comes next",
            named("Story"),
            _in_path("ref", "Our id, Kling's, or the external one."),
        ),
    },
    "/api/tasks/{ref}/cancel": {
        "post": _doing(
            "Cancel a task that waits to be sent; 409 where Kling may have it already",
            named("Task"),
            _in_path("ref", "Our id, Kling's, or the external one."),
        ),
    },
    "/api/endpoints": {
        "get": {"summary": "List what Kling can be asked for", "responses": _answers(a_list_of("Endpoint"))},
    },
    "/api/callback-urls": {
        "post": {
            "summary": "Make a callback URL for a job that is submitted elsewhere; it is told once",
            "requestBody": _content(an_object((), label=MAYBE_TEXT, tags=TAGS, endpoint=MAYBE_TEXT)),
            "responses": _answers(
                an_object(("task", "callback_url"), task=named("Task"), callback_url=TEXT), status=201
            ),
        },
    },
    "/api/callback-urls/{ref}/revoke": {
        "post": {
            "summary": "Let a task's callback URL lead nowhere from now on; the task is followed by polling",
            "parameters": [_in_path("ref", "Our id, Kling's, or the external one.")],
            "responses": _answers(named("Task")),
        },
    },
    "/api/batches": {
        "get": _listing(
            "List batches, newest first",
            "Batch",
            _asked_many("state", "In one of these states.", one_of(list(BatchState))),
        ),
    },
    "/api/batches/{name}": {"get": _showing("Show a batch", named("Batch"), _BATCH_NAME)},
    "/api/batches/{name}/close": {
        "post": _doing(
            "Close a batch: it takes no more tasks, and is finished when those it has are over",
            named("Batch"),
            _BATCH_NAME,
        ),
    },
    "/api/costs": {
        "get": _showing(
            "Sum what tasks have cost, by what they share, and all in all",
            an_object(("items", "total"), items={"type": "array", "items": named("Spent")}, total=named("Spent")),
            _asked("by", "tag:NAME, endpoint, day, label or batch; endpoint if not given."),
            _asked("from", "Of tasks that ended at this moment or later."),
            _asked("to", "Of tasks that ended before this moment."),
        ),
    },
    "/api/events": {
        "get": _listing(
            "List events, newest first; after an event, oldest first",
            "Event",
            _asked_many("type", "Of one of these types."),
            _asked("task", "Of this task, by any of its ids."),
            _asked("batch", "Of the tasks of this batch."),
            _asked("after", "Newer than the event of this id."),
        ),
    },
    "/api/events/{id}": {"get": _showing("Show an event", named("Event"), _in_path("id", "The event's id."))},
    "/api/deliveries": {
        "get": _listing(
            "List deliveries, newest first",
            "Delivery",
            _asked_many("status", "Of one of these statuses.", one_of(list(DeliveryStatus))),
            _asked("route", "To this route."),
            _asked("task", "Of this task, by any of its ids."),
            _asked("event", "Of this event."),
        ),
    },
    "/api/deliveries/{id}": {
        "get": _showing("Show a delivery and its attempts", named("Delivery"), _in_path("id", "The delivery's id.")),
    },
    "/api/deliveries/{id}/retry": {
        "post": _doing(
            "Try a delivery now: itself while it waits, else anew as a delivery that points at it",
            named("Delivery"),
            _in_path("id", "The delivery's id."),
            status=202,
        ),
    },
    "/api/replays": {
        "get": _listing("List replays, newest first", "Replay"),
        "post": {
            "summary": "Bring out again what is over; with dry_run only say what that would be",
            "requestBody": {"required": True, **_content(named("Wish"))},
            "responses": {**_answers(named("Outline")), **_answers(named("Replay"), status=202)},
        },
    },
    "/api/replays/{id}": {"get": _showing("Show a replay and how far it has come", named("Replay"), _REPLAY_ID)},
    "/api/replays/{id}/cancel": {
        "post": _doing("Stop a replay; what it has brought out goes on", named("Replay"), _REPLAY_ID),
    },
    "/api/routes": {
        "get": {"summary": "List routes, and how each fares", "responses": _answers(a_list_of("Route"))},
    },
    "/api/routes/{name}/hold": {
        "post": _doing("Hold a route until it is released; its events wait", named("Route"), _ROUTE_NAME),
    },
    "/api/routes/{name}/release": {
        "post": _doing("Let a route go on, whatever held it", named("Route"), _ROUTE_NAME),
    },
    "/api/routes/{name}/test": {
        "post": {
            "summary": "Send a made-up success through a route, once; nothing is stored",
            "parameters": [_ROUTE_NAME],
            "responses": _answers(named("Attempt")),
        },
    },
    "/api/stream": {
        "get": {
            "summary": "Follow events as they happen (server-sent events)",
            "parameters": [
                _asked("after", "Begin after the event of this id; a Last-Event-ID header does the same."),
                _asked_many("type", "Of one of these types."),
                _asked("task", "Of this task, by any of its ids."),
            ],
            "responses": _answers(TEXT, media_type="text/event-stream"),
        },
    },
    "/openapi.json": {"get": {"summary": "This description", "responses": _answers(ANYTHING)}},
    "/healthz": {"get": _open("Whether the service answers", _answers(an_object(("ok",), ok=FLAG)))},
    "/readyz": {
        "get": _open(
            "Whether the service can do its work; 503 when not",
            _answers(an_object(("ready", "checks"), ready=FLAG, checks={"type": "array", "items": ANYTHING})),
        ),
    },
}

DESCRIPTION: Json = {
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
