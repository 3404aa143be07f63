"""Sample events of every type, to test a route with. Pure. Each has ``"test": true`` in its data."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from receiver.domain.batches import Batch
from receiver.domain.clock import Ids, iso
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Asset, Event, Json, Origin, Source, Task, TaskState, Verification
from receiver.events.payload import batch_data, envelope, task_data, task_summary, with_assets

DEFAULT_ENDPOINT = "images/multi-image2image"

_MESSAGE = "A test event: the task does not exist."
_ROUTE = "publish"
_URLS = {"images": "https://example.com/test.png", "videos": "https://example.com/test.mp4"}
_KLING_WORDS = {TaskState.SUCCEED: "succeed", TaskState.FAILED: "failed", TaskState.PROCESSING: "processing"}


class UnknownType(ValueError):
    """There is no event of this type. The message lists all types."""


def sample_event(
    name: str, *, ids: Ids, at: datetime, endpoint: str = DEFAULT_ENDPOINT, assets: Sequence[Asset] = ()
) -> Event:
    """Return a sample event by its type without ``task.``: ``succeed``, ``batch`` or ``alert.route_held``.

    *assets* are the archived files of a success. Raises UnknownType.
    """
    name = name.removeprefix("task.")
    if name in _TASK_STATES:
        return task_event(a_task(TaskState(name), ids=ids, at=at, endpoint=endpoint), ids=ids, assets=assets)
    event_id, task = ids.new("evt"), a_task(TaskState.SUCCEED, ids=ids, at=at, endpoint=endpoint)
    if name in ("batch", "batch.finished"):
        return _event(event_id, "batch.finished", _batch(task, at), at)
    if name in ("report", "report.daily"):
        return _event(event_id, "report.daily", _report(at), at)
    make_data = _ALERTS.get(name.removeprefix("alert."))
    if make_data is None:
        raise UnknownType(f"There is no event type {name[:64]!r}. Expected one of: {', '.join(sample_names())}.")
    return _event(event_id, f"alert.{name.removeprefix('alert.')}", make_data(task, at), at)


def sample_names() -> Sequence[str]:
    """Return the names of all samples."""
    return (*_TASK_STATES, "batch", "report", *(f"alert.{name}" for name in _ALERTS))


def a_task(state: TaskState, *, ids: Ids, at: datetime, endpoint: str) -> Task:
    """Return a task that does not exist at Kling."""
    task_id = ids.new("tsk")
    return Task(
        id=task_id,
        origin=Origin.TEST,
        state=state,
        endpoint=endpoint,
        label="test",
        tags={"test": "true"},
        kling_id=f"test-{task_id}",
        external_task_id=task_id,
        message=_MESSAGE,
        created_at=at,
        updated_at=at,
    )


def task_event(task: Task, *, ids: Ids, assets: Sequence[Asset] = ()) -> Event:
    """Return a sample event of a task's state."""
    event_id, kind = ids.new("evt"), "videos" if (task.endpoint or "").startswith("videos/") else "images"
    result = {kind: [{"index": 0, "url": _URLS[kind]}]} if task.state is TaskState.SUCCEED else {}
    is_klings = task.state in _KLING_WORDS
    data = task_data(
        task,
        event_id=event_id,
        state=task.state,
        source=Source.CALLBACK if is_klings else Source.RECEIVER,
        verified=Verification.NONE,
        result=result,
    )
    body = {
        "task_id": task.kling_id,
        "task_status": _KLING_WORDS.get(task.state, ""),
        "task_status_msg": task.message,
        "task_info": {"external_task_id": task.external_task_id},
        "task_result": result,
    }
    type_ = f"task.{task.state.value}"
    whole = envelope(type_, task.updated_at, {**data, "test": True})
    return Event(
        id=event_id,
        type=type_,
        envelope=with_assets(whole, assets) if assets and result else whole,
        body=json.dumps(body).encode() if is_klings else b"",
        verified=Verification.NONE,
        created_at=task.updated_at,
        task_id=task.id,
    )


def _event(event_id: str, type_: str, data: Json, at: datetime) -> Event:
    return Event(
        id=event_id,
        type=type_,
        envelope=envelope(type_, at, {"event_id": event_id, **data, "test": True}),
        body=b"",
        verified=Verification.NONE,
        created_at=at,
    )


def _batch(task: Task, at: datetime) -> Json:
    batch = Batch(name="test", id="bat_test", created_at=at, size=1, task_count=1, closed_at=at, finished_at=at)
    data = batch_data(batch, {ListedState.SUCCEED: 1}, [(task, b"")], at=at)
    return {**data, "tasks": [{**each, "batch": "test"} for each in data["tasks"]]}


def _report(at: datetime) -> Json:
    return {
        "message": f"1 task succeeded. {_MESSAGE}",
        "day": f"{at:%Y-%m-%d}",
        "since": iso(at - timedelta(days=1)),
        "until": iso(at),
        "ended": {"succeed": 1},
        "spent": {"units": "1"},
        "dead": {},
        "callbacks_missed": 0,
        "held": [],
        "pending": 0,
        "alerts": {"open": 0, "acknowledged": 0},
    }


def _route(message: str, *, is_held: bool) -> Callable[[Task, datetime], Json]:
    def data(_task: Task, at: datetime) -> Json:
        reason = "connection refused by app.example.com:443"
        held = {"held_by": "failures", "held_at": iso(at)}
        return {"message": f"{message} {_MESSAGE}", "route": _ROUTE, "failures": 5 * is_held, "reason": reason, **held}

    return data


def _about_task(message: str, **more: object) -> Callable[[Task, datetime], Json]:
    return lambda task, _at: {"message": message, "remedy": _MESSAGE, **more, "task": task_summary(task)}


def _about_time(message: str, member: str, **more: object) -> Callable[[Task, datetime], Json]:
    return lambda task, at: {**_about_task(message, **more)(task, at), member: iso(at)}


def _fixed(message: str, **more: object) -> Callable[[Task, datetime], Json]:
    return lambda _task, _at: {"message": message, "remedy": _MESSAGE, **more}


_TASK_STATES = tuple(
    state.value for state in TaskState if state not in (TaskState.AWAITING, TaskState.QUEUED, TaskState.SUBMITTING)
)
_ACCOUNT = {"reach": "account", "name": ""}
_PACK = {"id": "test", "name": "Test pack", "total": "1000", "left": "90", "expires_at": None}
_RESULT = {"number": 0, "url": _URLS["images"], "reason": "the server answered 500", "still_tried": True}
_DISK = {"folder": "/var/lib/kling-receiver", "free": 1 << 20, "needed": 64 << 20}
_COUNTS = {"missed": 3, "of": 3}
_ALERTS: Mapping[str, Callable[[Task, datetime], Json]] = {
    "route_held": _route("Route publish is held after 5 consecutive failures: connection refused.", is_held=True),
    "route_recovered": _route("Route publish delivers again.", is_held=False),
    "events_rejected": _fixed(
        "Route publish rejected 5 events in a row.", route=_ROUTE, reason="422: it rejected them"
    ),
    "delivery_dead": _fixed(
        "A delivery to route publish is dead.",
        route=_ROUTE,
        delivery="dlv_test",
        event="evt_test",
        attempts=9,
        reason="500: it failed",
    ),
    "account": _fixed(
        "Kling accepts no calls from this account: in arrears.",
        kling_code=1101,
        request_id="test",
        stops_submits=True,
        concerns=_ACCOUNT,
    ),
    "account_recovered": _fixed("Kling accepts calls from this account again.", concerns=_ACCOUNT),
    "callbacks_missed": _fixed("No callback arrived for 3 of the last 3 tasks that ended.", **_COUNTS),
    "callbacks_recovered": _fixed("Kling's callbacks arrive again.", missed=0, of=3),
    "submit_unknown": _about_time("It is unknown whether Kling created the task.", "sent_at"),
    "task_stuck": _about_time("The task is still running.", "since", state="processing", reason="", asks=7),
    "task_contradicted": _about_task("Kling reports another end than the stored one.", state="succeed"),
    "asset_lost": _about_task("A result was not archived in time.", event="evt_test", results=[_RESULT]),
    "asset_expiring": _about_task("A result has been missing for 12 h.", event="evt_test", results=[_RESULT]),
    "asset_recovered": _about_task("The results are archived now.", event="evt_test", results=[]),
    "disk_full": _fixed("The store's disk is full.", **_DISK),
    "disk_recovered": _fixed("The store's disk has enough free space again.", **_DISK),
    "bill_differs": lambda _task, at: {
        "message": "Kling's ledgers differ from the stored costs: 1 billed task is not in the store.",
        "remedy": _MESSAGE,
        "from": f"{at:%Y-%m-%d}",
        "to": f"{at:%Y-%m-%d}",
        "unknown": 1,
        "unbilled": 0,
        "different": 0,
        "examples": {"unknown": ["test"], "unbilled": [], "different": []},
    },
    "pack_low": _fixed("Test pack: 9.0% of the pack is left.", pack=_PACK),
    "pack_recovered": _fixed("Test pack: the pack is not low any more.", pack={**_PACK, "left": "1000"}),
}
