"""The object that destinations receive. Pure: values in, JSON out.

An event's JSON is kept in two pieces, so that what Kling wrote is never parsed and written again on its way to
a destination: the *envelope* is the object without ``data.kling``, the *body* is that member as it came.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from receiver.domain.clock import iso
from receiver.domain.model import Asset, Event, Json, Source, Task, TaskState, Verified
from receiver.domain.replays import Batch, BatchState

MOST_RESULTS = 100
"""How many results of one event are brought home at the most; Kling makes nine pictures in one task."""

MOST_TOLD = 500
"""How many tasks of a batch its event tells of at the most."""

MOST_BYTES_TOLD = 640 * 1024
"""And how much: many a web server takes no body of more than 1 MB."""

_FETCHED = ("http://", "https://")
_END = b"}}"
_ENDS = ("task.succeed", "task.failed", "task.rejected", "task.expired")
_BYTES_OF_A_TASK = 512
_compact = json.JSONEncoder(separators=(",", ":")).encode  # made once: json.dumps makes one for each call


def describe_task(task: Task) -> Json:
    """Give the part of an event that tells which task it is about."""
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
    message: str,
    source: Source,
    verified: Verified,
    result: Mapping[str, Sequence[Json]],
) -> Json:
    """Give the ``data`` of a task's event, without ``kling``."""
    return {
        "event_id": event_id,
        "status": state.value,
        "message": message,
        "source": source.value,
        "verified": verified.value,
        "task": describe_task(task),
        "result": {kind: list(entries) for kind, entries in result.items()},
    }


def batch_data(
    batch: Batch, counts: Mapping[TaskState, int], tasks: Sequence[tuple[Task, bytes]], *, at: datetime
) -> Json:
    """Give the ``data`` of the event that tells of a batch's end.

    *tasks* are the first of its tasks, in the order they came in, each with the object that told of its own end.
    Those that would make the event too large are left out.
    """
    told = _as_many_as_fit(tasks)
    left_out = sum(counts.values()) - len(told)
    ends = [f"{counts[state]} {state}" for state in TaskState if state in counts]
    return {
        "status": "finished",
        "message": f"Batch {batch.name} is finished: {', '.join(ends)}.",
        "batch": {**describe_batch(batch, counts), "state": BatchState.FINISHED.value, "finished_at": iso(at)},
        "tasks": [_end_of_task(task, object_) for task, object_ in told],
        "left_out": left_out,
        "rest": f"/api/events?batch={batch.name}&type={','.join(_ENDS)}" if left_out else None,
    }


def describe_batch(batch: Batch, counts: Mapping[TaskState, int]) -> Json:
    """Tell how a batch stands, and how many of its tasks are in each state."""
    return {
        "name": batch.name,
        "state": batch.state.value,
        "size": batch.size,
        "tasks": batch.taken,
        "counts": {state.value: counts[state] for state in TaskState if state in counts},
        "created_at": iso(batch.created_at),
        "closed_at": None if batch.closed_at is None else iso(batch.closed_at),
        "finished_at": None if batch.finished_at is None else iso(batch.finished_at),
    }


def _as_many_as_fit(tasks: Sequence[tuple[Task, bytes]]) -> Sequence[tuple[Task, bytes]]:
    """Take the first that are not too much together, going by what told of each: about as much is told again."""
    room = MOST_BYTES_TOLD
    for number, (_, object_) in enumerate(tasks[:MOST_TOLD]):
        room -= max(len(object_), _BYTES_OF_A_TASK)
        if room < 0:
            return tasks[:number]
    return tasks[:MOST_TOLD]


def _end_of_task(task: Task, object_: bytes) -> Json:
    data = json.loads(object_)["data"] if object_ else {}
    return {
        **describe_task(task),
        "state": task.state.value,
        "message": task.message,
        "result": data.get("result", {}),
        "assets": data.get("assets", []),
    }


def result_urls(result: Mapping[str, Sequence[Json]]) -> Sequence[str]:
    """Give the URLs in a task's result, each once, in the order they stand in: what the task has made."""
    found = [url for entries in result.values() for entry in entries for url in _urls(entry)]
    return tuple(dict.fromkeys(found))[:MOST_RESULTS]


def fresh_urls(old: object, new: object) -> Mapping[str, str]:
    """Tell for each URL in a task's result which one stands in its place in a newer telling, which may tell of more."""
    return dict(_paired(old, new))


def _paired(old: object, new: object) -> Iterator[tuple[str, str]]:
    match old, new:
        case str(), str() if old.startswith(_FETCHED) and new.startswith(_FETCHED):
            yield old, new
        case dict(), dict():
            for name in old.keys() & new.keys():
                yield from _paired(old[name], new[name])
        case ((list() | tuple()), (list() | tuple())):
            for one, other in zip(old, new, strict=False):
                yield from _paired(one, other)


def _urls(value: object) -> Iterator[str]:
    match value:
        case str() if value.startswith(_FETCHED):
            yield value
        case dict():
            for inner in value.values():
                yield from _urls(inner)
        case list():
            for inner in value:
                yield from _urls(inner)


def with_assets(envelope: bytes, assets: Sequence[Asset]) -> bytes:
    """Write into an event's object where its results are kept."""
    told: Json = json.loads(envelope)
    told["data"]["assets"] = [_asset(asset) for asset in assets]
    return _written(told)


def _asset(asset: Asset) -> Json:
    where = {"path": asset.path, "storage": asset.storage}
    return {
        "url": asset.url,
        **{name: place for name, place in where.items() if place is not None},
        "sha256": asset.sha256.hex(),
        "bytes": asset.size,
        "content_type": asset.content_type,
    }


def envelope(type_: str, at: datetime, data: Json) -> bytes:
    """Write the event object around its *data*; what Kling wrote is spliced in by :func:`joined`."""
    return _written({"type": type_, "timestamp": iso(at), "data": data})


def joined(event: Event) -> bytes:
    """Give the whole object as destinations receive it."""
    if not event.body:
        return event.envelope
    return event.envelope.removesuffix(_END) + b',"kling":' + event.body + _END


def _written(told: Json) -> bytes:
    return _compact(told).encode()
