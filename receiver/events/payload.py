"""The JSON object that destinations receive. Pure: values in, JSON out.

An event's JSON is stored in two parts, so that Kling's own JSON reaches a destination byte for byte. The *envelope* is
the object without ``data.kling``; the *body* is that member as received.
"""

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from receiver.domain.batches import Batch, BatchState
from receiver.domain.clock import iso
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Asset, Event, Json, Source, Task, TaskState, Verification

MAX_RESULTS = 100
"""The most results of one event that are archived. Kling makes at most nine images per task."""

MAX_BATCH_TASKS = 500
"""The most tasks that the event of a batch lists."""

MAX_BATCH_BYTES = 640 * 1024
"""The most bytes of tasks in the event of a batch. Many web servers refuse a body of more than 1 MB."""

_URL_SCHEMES = ("http://", "https://")
_CLOSING_BRACES = b"}}"
_END_EVENTS = ("task.succeed", "task.failed", "task.rejected", "task.expired")
_MIN_TASK_BYTES = 512
_encode_json = msgspec.json.Encoder().encode


def task_summary(task: Task) -> Json:
    """Return the part of an event that identifies its task."""
    return {
        "id": task.id,
        "kling_id": task.kling_id,
        "external_task_id": task.external_task_id,
        "endpoint": task.endpoint,
        "label": task.label,
        "tags": dict(task.tags),
        "batch": task.batch,
        "created_at": iso(task.created_at),
    }


def task_data(
    task: Task,
    *,
    event_id: str,
    state: TaskState,
    source: Source,
    verified: Verification,
    result: Mapping[str, Sequence[Json]],
) -> Json:
    """Return the ``data`` of a task's event, without ``kling``."""
    return {
        "event_id": event_id,
        "status": state.value,
        "message": task.message,
        "source": source.value,
        "verified": verified.value,
        "task": task_summary(task),
        "result": {kind: list(entries) for kind, entries in result.items()},
    }


def batch_data(
    batch: Batch, counts: Mapping[ListedState, int], tasks: Sequence[tuple[Task, bytes]], *, at: datetime
) -> Json:
    """Return the ``data`` of a batch's ``batch.finished`` event.

    *tasks* are its first tasks in the order of submission, each with the JSON of its last event. Tasks that would make
    the event too large are left out.
    """
    listed = _tasks_that_fit(tasks)
    left_out = sum(counts.values()) - len(listed)
    ends = [f"{counts[state]} {state}" for state in ListedState if state in counts]
    return {
        "status": "finished",
        "message": f"Batch {batch.name} is finished: {', '.join(ends)}.",
        "batch": {**batch_summary(batch, counts), "state": BatchState.FINISHED.value, "finished_at": iso(at)},
        "tasks": [_finished_task(task, event_json) for task, event_json in listed],
        "left_out": left_out,
        "rest": f"/api/events?batch={batch.name}&type={','.join(_END_EVENTS)}" if left_out else None,
    }


def batch_summary(batch: Batch, counts: Mapping[ListedState, int]) -> Json:
    """Return a batch's state and the number of its tasks in each state."""
    return {
        "name": batch.name,
        "state": batch.state.value,
        "size": batch.size,
        "tasks": batch.task_count,
        "counts": {state.value: counts[state] for state in ListedState if state in counts},
        "created_at": iso(batch.created_at),
        "closed_at": None if batch.closed_at is None else iso(batch.closed_at),
        "finished_at": None if batch.finished_at is None else iso(batch.finished_at),
    }


def _tasks_that_fit(tasks: Sequence[tuple[Task, bytes]]) -> Sequence[tuple[Task, bytes]]:
    """Return the first tasks that fit into the event. The size of a task's own event is the estimate."""
    bytes_left = MAX_BATCH_BYTES
    for number, (_, event_json) in enumerate(tasks[:MAX_BATCH_TASKS]):
        bytes_left -= max(len(event_json), _MIN_TASK_BYTES)
        if bytes_left < 0:
            return tasks[:number]
    return tasks[:MAX_BATCH_TASKS]


def _finished_task(task: Task, event_json: bytes) -> Json:
    data = json.loads(event_json)["data"] if event_json else {}
    return {
        **task_summary(task),
        "state": task.listed_state.value,
        "message": task.message,
        "result": data.get("result", {}),
        "assets": data.get("assets", []),
    }


def result_urls(result: Mapping[str, Sequence[Json]]) -> Sequence[str]:
    """Return the URLs in a task's result, each once, in their order."""
    found = [url for entries in result.values() for entry in entries for url in _urls(entry)]
    return tuple(dict.fromkeys(found))[:MAX_RESULTS]


def match_refreshed_urls(old: object, new: object) -> Mapping[str, str]:
    """Map each URL in a task's result to the URL at the same place in a newer result, which may have more entries."""
    return dict(_url_pairs(old, new))


def _url_pairs(old: object, new: object) -> Iterator[tuple[str, str]]:
    match old, new:
        case str(), str() if old.startswith(_URL_SCHEMES) and new.startswith(_URL_SCHEMES):
            yield old, new
        case dict(), dict():
            for name in old.keys() & new.keys():
                yield from _url_pairs(old[name], new[name])
        case ((list() | tuple()), (list() | tuple())):
            for one, other in zip(old, new, strict=False):
                yield from _url_pairs(one, other)


def _urls(value: object) -> Iterator[str]:
    match value:
        case str() if value.startswith(_URL_SCHEMES):
            yield value
        case dict():
            for inner in value.values():
                yield from _urls(inner)
        case list():
            for inner in value:
                yield from _urls(inner)


def with_assets(envelope: bytes, assets: Sequence[Asset]) -> bytes:
    """Return an event's envelope with the places of its archived results."""
    event: Json = json.loads(envelope)
    event["data"]["assets"] = [_asset_json(asset) for asset in assets]
    return _to_json(event)


def _asset_json(asset: Asset) -> Json:
    places = {"path": asset.path, "storage": asset.storage}
    return {
        "url": asset.url,
        **{name: place for name, place in places.items() if place is not None},
        "sha256": asset.sha256.hex(),
        "bytes": asset.size,
        "content_type": asset.content_type,
    }


def envelope(type_: str, at: datetime, data: Json) -> bytes:
    """Return the event object around its *data*. :func:`serialize` inserts Kling's own JSON."""
    return _to_json({"type": type_, "timestamp": iso(at), "data": data})


def serialize(event: Event) -> bytes:
    """Return the complete object as destinations receive it."""
    if not event.body:
        return event.envelope
    body = event.body.removeprefix(codecs.BOM_UTF8)  # inside a JSON text the mark is an error
    return event.envelope.removesuffix(_CLOSING_BRACES) + b',"kling":' + body + _CLOSING_BRACES


def _to_json(value: Json) -> bytes:
    try:
        return _encode_json(value)
    except (ValueError, OverflowError):  # half of a surrogate pair, or a number of more than 64 bits
        return json.dumps(value, separators=(",", ":")).encode()
