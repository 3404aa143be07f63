"""The admin listener's API described for machines (OpenAPI 3.1), at ``/openapi.json``."""

from collections.abc import Sequence

from receiver import __version__
from receiver.model import Archiving, DeliveryStatus, Generation, HeldBy, Json, Origin, TaskState, Verified
from receiver.orders import BatchState, ReplayState
from receiver.web.asked import DEFAULT_LIMIT, MOST

_TEXT: Json = {"type": "string"}
_MAYBE_TEXT: Json = {"type": ["string", "null"]}
_NUMBER: Json = {"type": "number"}
_COUNT: Json = {"type": "integer"}
_FLAG: Json = {"type": "boolean"}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_TAGS: Json = {"type": "object", "additionalProperties": _TEXT}
_ANYTHING: Json = {"type": "object"}
_MOMENT: Json = {"type": "string", "format": "date-time"}
_MAYBE_MOMENT: Json = {"type": ["string", "null"], "format": "date-time"}


def _words(words: Sequence[str]) -> Json:
    return {"type": "string", "enum": [str(word) for word in words]}


def _object(required: Sequence[str] = (), **members: Json) -> Json:
    return {"type": "object", "properties": members, **({"required": list(required)} if required else {})}


def _named(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(name: str) -> Json:
    return _object(("items", "next"), items={"type": "array", "items": _named(name)}, next=_MAYBE_TEXT)


def _content(schema: Json, media_type: str = "application/json") -> Json:
    return {"content": {media_type: {"schema": schema}}}


def _answers(schema: Json, *, status: int = 200, media_type: str = "application/json") -> Json:
    return {
        str(status): {"description": "As asked.", **_content(schema, media_type)},
        "default": {"description": "A problem.", **_content(_named("Problem"), "application/problem+json")},
    }


def _in_path(name: str, meaning: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": _TEXT}


def _asked(name: str, meaning: str, schema: Json = _TEXT) -> Json:
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


def _asked_many(name: str, meaning: str, schema: Json = _TEXT) -> Json:
    return _asked(name, meaning, {"type": "array", "items": schema})


def _listing(summary: str, item: str, *filters: Json) -> Json:
    paging = [
        _asked("limit", "How many.", {**_COUNT, "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT}),
        _asked("cursor", "The former page's `next`."),
    ]
    return {"summary": summary, "parameters": [*filters, *paging], "responses": _answers(_list_of(item))}


def _showing(summary: str, schema: Json, *parameters: Json) -> Json:
    return {"summary": summary, "parameters": list(parameters), "responses": _answers(schema)}


def _open(summary: str, answers: Json) -> Json:
    return {"summary": summary, "security": [], "responses": answers}


_SCHEMAS: Json = {
    "Problem": _object(
        ("type", "title", "status", "detail", "code"),
        type=_TEXT,
        title=_TEXT,
        status=_COUNT,
        detail=_TEXT,
        code=_TEXT,
    ),
    "Job": _object(
        ("endpoint", "body"),
        endpoint={**_TEXT, "examples": ["images/multi-image2image"]},
        body={**_ANYTHING, "description": "What Kling's documentation says; goes through unchanged."},
        label=_MAYBE_TEXT,
        tags=_TAGS,
        batch={
            "description": "The batch it belongs to: a name, or the name and of how many tasks it is.",
            "oneOf": [_MAYBE_TEXT, _object(("name",), name=_TEXT, size=_COUNT)],
        },
        idempotency_key=_MAYBE_TEXT,
    ),
    "Task": _object(
        ("id", "state"),
        id=_TEXT,
        state=_words(list(TaskState)),
        endpoint=_MAYBE_TEXT,
        label=_MAYBE_TEXT,
        tags=_TAGS,
        batch=_MAYBE_TEXT,
        kling_id=_MAYBE_TEXT,
        external_task_id=_MAYBE_TEXT,
        message=_TEXT,
        origin=_words(list(Origin)),
        created_at=_MOMENT,
        updated_at=_MOMENT,
        expires_at=_MAYBE_MOMENT,
        verified={"enum": [*(word.value for word in Verified), None], "description": "Of one task alone."},
        result={**_ANYTHING, "description": "Of one task alone: a kind, such as images, to its entries."},
        assets={"type": "array", "items": _ANYTHING, "description": "Of one task alone: files brought home."},
        archiving={
            "enum": [*(word.value for word in Archiving), None],
            "description": "Of one task alone: how it stands with files that are not home yet.",
        },
    ),
    "Endpoint": _object(
        ("path", "generation", "asynchronous"),
        path=_TEXT,
        generation=_words(list(Generation)),
        pack=_MAYBE_TEXT,
        slots={"type": ["integer", "string", "null"], "description": "How many a task takes, or the member that says."},
        result=_TEXT,
        asynchronous=_FLAG,
        create=_TEXT,
        query=_MAYBE_TEXT,
        list=_MAYBE_TEXT,
    ),
    "Batch": _object(
        ("name", "state", "tasks", "counts"),
        name=_TEXT,
        state=_words(list(BatchState)),
        size={"type": ["integer", "null"], "description": "Of how many tasks it was said to be."},
        tasks={**_COUNT, "description": "How many it has taken in."},
        counts={"type": "object", "description": "How many are in each state.", "additionalProperties": _COUNT},
        created_at=_MOMENT,
        closed_at=_MAYBE_MOMENT,
        finished_at=_MAYBE_MOMENT,
        event_id={**_MAYBE_TEXT, "description": "The event that told of its end."},
    ),
    "Event": _object(
        ("type", "timestamp", "data"),
        type={**_TEXT, "examples": ["task.succeed"]},
        timestamp=_MOMENT,
        data={**_ANYTHING, "description": "With `event_id`; the same object that destinations receive."},
    ),
    "Delivery": _object(
        ("id", "event_id", "route", "status"),
        id=_TEXT,
        event_id=_TEXT,
        event_type=_TEXT,
        task_id=_MAYBE_TEXT,
        route=_TEXT,
        status=_words(list(DeliveryStatus)),
        attempts=_COUNT,
        due_at=_MOMENT,
        created_at=_MOMENT,
        finished_at=_MAYBE_MOMENT,
        replay_of=_MAYBE_TEXT,
        in_flight=_FLAG,
        attempts_made={"type": "array", "items": _named("Attempt"), "description": "Of one delivery alone."},
    ),
    "Attempt": _object(
        (),
        number=_COUNT,
        started_at=_MOMENT,
        duration_ms=_NUMBER,
        outcome=_words(["accepted", "failed", "refused"]),
        code={"type": ["integer", "null"]},
        reason=_TEXT,
        excerpt=_TEXT,
    ),
    "Route": _object(
        ("name", "kind"),
        name=_TEXT,
        kind=_words(["webhook", "script", "reply", "gone"]),
        destination=_TEXT,
        on=_TEXTS,
        endpoints=_TEXTS,
        where=_MAYBE_TEXT,
        concurrency=_COUNT,
        held_at=_MAYBE_MOMENT,
        held_by={"enum": [*(word.value for word in HeldBy), None]},
        held_why=_TEXT,
        probe_at=_MAYBE_MOMENT,
        failures=_COUNT,
        pending=_COUNT,
        oldest_pending_at=_MAYBE_MOMENT,
    ),
    "Wish": _object(
        (),
        deliveries={**_TEXTS, "description": "These deliveries, by their ids."},
        events={**_TEXTS, "description": "These events, by their ids."},
        task={**_MAYBE_TEXT, "description": "Of this task, by any of its ids."},
        route={**_MAYBE_TEXT, "description": "What went to this route."},
        status={"type": "array", "items": _words([each for each in DeliveryStatus if each != "pending"])},
        **{"from": {**_MAYBE_MOMENT, "description": "Made at this moment or later."}},
        to={**_MAYBE_MOMENT, "description": "Made before this moment."},
        to_route={**_MAYBE_TEXT, "description": "Where it goes, instead of where it went."},
        pace={**_TEXT, "examples": ["5/s", "100/m"]},
        why=_TEXT,
        dry_run={**_FLAG, "description": "Only say what would go out."},
    ),
    "Replay": _object(
        ("id", "state", "total", "created"),
        id=_TEXT,
        state=_words(list(ReplayState)),
        total=_COUNT,
        created={**_COUNT, "description": "How many of the total have gone out, or wait in their routes."},
        selection=_ANYTHING,
        pace=_MAYBE_TEXT,
        actor=_TEXT,
        why=_TEXT,
        created_at=_MOMENT,
        finished_at=_MAYBE_MOMENT,
    ),
    "Story": _object(
        ("task", "intent", "pushes", "events", "actions", "next"),
        task=_named("Task"),
        intent={"type": ["object", "null"], "description": "What was asked for, shortened; null when not kept."},
        pushes={"type": "array", "items": _ANYTHING, "description": "What arrived, as it came, and what came of it."},
        events={"type": "array", "items": _ANYTHING, "description": "With each route's decision and its deliveries."},
        actions={"type": "array", "items": _ANYTHING, "description": "What people did about it."},
        next={**_TEXT, "description": "What comes next, or what a person is to do."},
    ),
    "Outline": _object(
        ("dry_run", "total", "by", "sample"),
        dry_run=_FLAG,
        total=_COUNT,
        by={"type": "array", "items": _ANYTHING},
        sample={"type": "array", "items": _ANYTHING},
    ),
}

_WHY: Json = _object((), why={**_TEXT, "description": "For the record."})


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
            _asked_many("state", "In one of these states.", _words(list(TaskState))),
            _asked("endpoint", "Of this endpoint."),
            _asked("label", "Of this label."),
            _asked_many("tag", "With this tag, written key:value."),
            _asked("batch", "Of this batch."),
        ),
        "post": {
            "summary": "Hand a job in; it is sent to Kling when a slot is free",
            "requestBody": {"required": True, **_content(_named("Job"))},
            "responses": _answers(_named("Task"), status=202),
        },
    },
    "/api/tasks/{ref}": {
        "get": _showing("Show a task", _named("Task"), _in_path("ref", "Our id, Kling's, or the external one.")),
    },
    "/api/tasks/{ref}/explain": {
        "get": _showing(
            "Tell a task's whole story: what was wanted, arrived, was decided and tried, and what comes next",
            _named("Story"),
            _in_path("ref", "Our id, Kling's, or the external one."),
        ),
    },
    "/api/endpoints": {
        "get": {"summary": "List what Kling can be asked for", "responses": _answers(_list_of("Endpoint"))},
    },
    "/api/callback-urls": {
        "post": {
            "summary": "Make a callback URL for a job that is submitted elsewhere; it is told once",
            "requestBody": _content(_object((), label=_MAYBE_TEXT, endpoint=_MAYBE_TEXT)),
            "responses": _answers(
                _object(("task", "callback_url"), task=_named("Task"), callback_url=_TEXT), status=201
            ),
        },
    },
    "/api/callback-urls/{ref}/revoke": {
        "post": {
            "summary": "Let a task's callback URL lead nowhere from now on; the task is followed by polling",
            "parameters": [_in_path("ref", "Our id, Kling's, or the external one.")],
            "responses": _answers(_named("Task")),
        },
    },
    "/api/batches": {
        "get": _listing(
            "List batches, newest first",
            "Batch",
            _asked_many("state", "In one of these states.", _words(list(BatchState))),
        ),
    },
    "/api/batches/{name}": {"get": _showing("Show a batch", _named("Batch"), _BATCH_NAME)},
    "/api/batches/{name}/close": {
        "post": _doing(
            "Close a batch: it takes no more tasks, and is finished when those it has are over",
            _named("Batch"),
            _BATCH_NAME,
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
    "/api/events/{id}": {"get": _showing("Show an event", _named("Event"), _in_path("id", "The event's id."))},
    "/api/deliveries": {
        "get": _listing(
            "List deliveries, newest first",
            "Delivery",
            _asked_many("status", "Of one of these statuses.", _words(list(DeliveryStatus))),
            _asked("route", "To this route."),
            _asked("task", "Of this task, by any of its ids."),
            _asked("event", "Of this event."),
        ),
    },
    "/api/deliveries/{id}": {
        "get": _showing("Show a delivery and its attempts", _named("Delivery"), _in_path("id", "The delivery's id.")),
    },
    "/api/deliveries/{id}/retry": {
        "post": _doing(
            "Try a delivery now: itself while it waits, else anew as a delivery that points at it",
            _named("Delivery"),
            _in_path("id", "The delivery's id."),
            status=202,
        ),
    },
    "/api/replays": {
        "get": _listing("List replays, newest first", "Replay"),
        "post": {
            "summary": "Bring out again what is over; with dry_run only say what that would be",
            "requestBody": {"required": True, **_content(_named("Wish"))},
            "responses": {**_answers(_named("Outline")), **_answers(_named("Replay"), status=202)},
        },
    },
    "/api/replays/{id}": {"get": _showing("Show a replay and how far it has come", _named("Replay"), _REPLAY_ID)},
    "/api/replays/{id}/cancel": {
        "post": _doing("Stop a replay; what it has brought out goes on", _named("Replay"), _REPLAY_ID),
    },
    "/api/routes": {
        "get": {"summary": "List routes, and how each fares", "responses": _answers(_list_of("Route"))},
    },
    "/api/routes/{name}/hold": {
        "post": _doing("Hold a route until it is released; its events wait", _named("Route"), _ROUTE_NAME),
    },
    "/api/routes/{name}/release": {
        "post": _doing("Let a route go on, whatever held it", _named("Route"), _ROUTE_NAME),
    },
    "/api/routes/{name}/test": {
        "post": {
            "summary": "Send a made-up success through a route, once; nothing is stored",
            "parameters": [_ROUTE_NAME],
            "responses": _answers(_named("Attempt")),
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
            "responses": _answers(_TEXT, media_type="text/event-stream"),
        },
    },
    "/openapi.json": {"get": {"summary": "This description", "responses": _answers(_ANYTHING)}},
    "/healthz": {"get": _open("Whether the service answers", _answers(_object(("ok",), ok=_FLAG)))},
    "/readyz": {
        "get": _open(
            "Whether the service can do its work; 503 when not",
            _answers(_object(("ready", "checks"), ready=_FLAG, checks={"type": "array", "items": _ANYTHING})),
        ),
    },
}

DESCRIPTION: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Kling Receiver",
        "version": __version__,
        "description": "The admin listener. Kling's own API is passed through at /kling/, as Kling documents it.",
    },
    "security": [{"token": []}],
    "paths": _PATHS,
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}
