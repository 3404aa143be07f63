"""The object that destinations receive. Pure: values in, JSON out.

An event's JSON is kept in two pieces, so that what Kling wrote is never parsed and written again on its way to
a destination: the *envelope* is the object without ``data.kling``, the *body* is that member as it came.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from receiver.clock import iso
from receiver.model import Asset, Event, Json, Source, Task, TaskState, Verified

MOST_RESULTS = 100
"""How many results of one event are brought home at the most; Kling makes nine pictures in one task."""

_END = b"}}"
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


def result_urls(result: Mapping[str, Sequence[Json]]) -> Sequence[str]:
    """Give the URLs in a task's result, each once, in the order they stand in: what the task has made."""
    found = [url for entries in result.values() for entry in entries for url in _urls(entry)]
    return tuple(dict.fromkeys(found))[:MOST_RESULTS]


def _urls(value: object) -> Iterator[str]:
    match value:
        case str() if value.startswith(("http://", "https://")):
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
    told["data"]["assets"] = [
        {
            "url": asset.url,
            "path": asset.path,
            "sha256": asset.sha256.hex(),
            "bytes": asset.size,
            "content_type": asset.content_type,
        }
        for asset in assets
    ]
    return _written(told)


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
