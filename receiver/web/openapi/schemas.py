"""The JSON schemas of the API's objects, for the OpenAPI document."""

from collections.abc import Sequence

from receiver.domain.batches import BatchState
from receiver.domain.model import (
    ArchiveState,
    DeliveryStatus,
    Generation,
    HeldBy,
    Json,
    Origin,
    TaskState,
    Verification,
)
from receiver.domain.replays import ReplayState

TEXT: Json = {"type": "string"}
MAYBE_TEXT: Json = {"type": ["string", "null"]}
NUMBER: Json = {"type": "number"}
COUNT: Json = {"type": "integer"}
FLAG: Json = {"type": "boolean"}
TEXTS: Json = {"type": "array", "items": TEXT}
TAGS: Json = {"type": "object", "additionalProperties": TEXT}
ANYTHING: Json = {"type": "object"}
MOMENT: Json = {"type": "string", "format": "date-time"}
MAYBE_MOMENT: Json = {"type": ["string", "null"], "format": "date-time"}


def one_of(words: Sequence[str]) -> Json:
    """Say that it is one of some words."""
    return {"type": "string", "enum": [str(word) for word in words]}


def an_object(required: Sequence[str] = (), **members: Json) -> Json:
    """Say which members an object has, and which of them always."""
    return {"type": "object", "properties": members, **({"required": list(required)} if required else {})}


def named(name: str) -> Json:
    """Say that it looks as what is described by this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def a_list_of(name: str) -> Json:
    """Say that it is a page of a list."""
    return an_object(("items", "next"), items={"type": "array", "items": named(name)}, next=MAYBE_TEXT)


SCHEMAS: Json = {
    "Problem": an_object(
        ("type", "title", "status", "detail", "code"),
        type=TEXT,
        title=TEXT,
        status=COUNT,
        detail=TEXT,
        code=TEXT,
    ),
    "SubmitRequest": an_object(
        ("endpoint", "body"),
        endpoint={**TEXT, "examples": ["images/multi-image2image"]},
        body={**ANYTHING, "description": "What Kling's documentation says; goes through unchanged."},
        label=MAYBE_TEXT,
        tags=TAGS,
        batch={
            "description": "The batch it belongs to: a name, or the name and of how many tasks it is.",
            "oneOf": [MAYBE_TEXT, an_object(("name",), name=TEXT, size=COUNT)],
        },
        priority={**COUNT, "default": 0, "description": "Of what waits the higher goes first."},
        idempotency_key=MAYBE_TEXT,
    ),
    "Task": an_object(
        ("id", "state"),
        id=TEXT,
        state=one_of(list(TaskState)),
        endpoint=MAYBE_TEXT,
        label=MAYBE_TEXT,
        tags=TAGS,
        batch=MAYBE_TEXT,
        priority=COUNT,
        kling_id=MAYBE_TEXT,
        external_task_id=MAYBE_TEXT,
        message=TEXT,
        origin=one_of(list(Origin)),
        created_at=MOMENT,
        updated_at=MOMENT,
        expires_at=MAYBE_MOMENT,
        existing={**FLAG, "description": "Of a job handed in: it was there already, by its idempotency key."},
        verified={"enum": [*(word.value for word in Verification), None], "description": "Of one task alone."},
        result={**ANYTHING, "description": "Of one task alone: a kind, such as images, to its entries."},
        assets={"type": "array", "items": ANYTHING, "description": "Of one task alone: files brought home."},
        archiving={
            "enum": [*(word.value for word in ArchiveState), None],
            "description": "Of one task alone: how it stands with files that are not home yet.",
        },
        cost={
            "type": ["object", "null"],
            "description": "Of one task alone: what Kling took, exact amounts by their units, and its own words.",
        },
    ),
    "Endpoint": an_object(
        ("path", "generation", "asynchronous"),
        path=TEXT,
        generation=one_of(list(Generation)),
        pack=MAYBE_TEXT,
        slots={"type": ["integer", "string", "null"], "description": "How many a task takes, or the member that says."},
        result=TEXT,
        asynchronous=FLAG,
        create=TEXT,
        query=MAYBE_TEXT,
        list=MAYBE_TEXT,
    ),
    "CostTotal": an_object(
        ("name", "tasks", "charges"),
        name=MAYBE_TEXT,
        tasks={**COUNT, "description": "How many tasks of known cost."},
        charges=TAGS,
    ),
    "Batch": an_object(
        ("name", "state", "tasks", "counts"),
        name=TEXT,
        state=one_of(list(BatchState)),
        size={"type": ["integer", "null"], "description": "Of how many tasks it was said to be."},
        tasks={**COUNT, "description": "How many it has taken in."},
        counts={"type": "object", "description": "How many are in each state.", "additionalProperties": COUNT},
        created_at=MOMENT,
        closed_at=MAYBE_MOMENT,
        finished_at=MAYBE_MOMENT,
        event_id={**MAYBE_TEXT, "description": "The event that told of its end."},
    ),
    "Event": an_object(
        ("type", "timestamp", "data"),
        type={**TEXT, "examples": ["task.succeed"]},
        timestamp=MOMENT,
        data={**ANYTHING, "description": "With `event_id`; the same object that destinations receive."},
    ),
    "Delivery": an_object(
        ("id", "event_id", "route", "status"),
        id=TEXT,
        event_id=TEXT,
        event_type=TEXT,
        task_id=MAYBE_TEXT,
        route=TEXT,
        status=one_of(list(DeliveryStatus)),
        attempts=COUNT,
        due_at=MOMENT,
        created_at=MOMENT,
        finished_at=MAYBE_MOMENT,
        replay_of=MAYBE_TEXT,
        in_flight=FLAG,
        attempts_made={"type": "array", "items": named("Attempt"), "description": "Of one delivery alone."},
    ),
    "Attempt": an_object(
        (),
        number=COUNT,
        started_at=MOMENT,
        duration_ms=NUMBER,
        outcome=one_of(["accepted", "failed", "refused"]),
        code={"type": ["integer", "null"]},
        reason=TEXT,
        excerpt=TEXT,
    ),
    "Route": an_object(
        ("name", "kind"),
        name=TEXT,
        kind=one_of(["webhook", "script", "reply", "gone"]),
        destination=TEXT,
        on=TEXTS,
        endpoints=TEXTS,
        where=MAYBE_TEXT,
        concurrency=COUNT,
        held_at=MAYBE_MOMENT,
        held_by={"enum": [*(word.value for word in HeldBy), None]},
        held_why=TEXT,
        probe_at=MAYBE_MOMENT,
        failures=COUNT,
        pending=COUNT,
        oldest_pending_at=MAYBE_MOMENT,
    ),
    "ReplayRequest": an_object(
        (),
        deliveries={**TEXTS, "description": "These deliveries, by their ids."},
        events={**TEXTS, "description": "These events, by their ids."},
        task={**MAYBE_TEXT, "description": "Of this task, by any of its ids."},
        route={**MAYBE_TEXT, "description": "What went to this route."},
        status={"type": "array", "items": one_of([each for each in DeliveryStatus if each != "pending"])},
        **{"from": {**MAYBE_MOMENT, "description": "Made at this moment or later."}},
        to={**MAYBE_MOMENT, "description": "Made before this moment."},
        to_route={**MAYBE_TEXT, "description": "Where it goes, instead of where it went."},
        pace={**TEXT, "examples": ["5/s", "100/m"]},
        why=TEXT,
        dry_run={**FLAG, "description": "Only say what would go out."},
    ),
    "Replay": an_object(
        ("id", "state", "total", "created"),
        id=TEXT,
        state=one_of(list(ReplayState)),
        total=COUNT,
        created={**COUNT, "description": "How many of the total have gone out, or wait in their routes."},
        selection=ANYTHING,
        pace=MAYBE_TEXT,
        actor=TEXT,
        why=TEXT,
        created_at=MOMENT,
        finished_at=MAYBE_MOMENT,
    ),
    "TaskExplanation": an_object(
        ("task", "intent", "pushes", "events", "actions", "next"),
        task=named("Task"),
        intent={"type": ["object", "null"], "description": "What was asked for, shortened; null when not kept."},
        pushes={"type": "array", "items": ANYTHING, "description": "What arrived, as it came, and what came of it."},
        events={"type": "array", "items": ANYTHING, "description": "With each route's decision and its deliveries."},
        actions={"type": "array", "items": ANYTHING, "description": "What people did about it."},
        next={**TEXT, "description": "What comes next, or what a person is to do."},
    ),
    "ReplayPreview": an_object(
        ("dry_run", "total", "by", "sample"),
        dry_run=FLAG,
        total=COUNT,
        by={"type": "array", "items": ANYTHING},
        sample={"type": "array", "items": ANYTHING},
    ),
}
