"""The object that destinations receive. Pure: values in, JSON out.

An event's JSON is kept in two pieces, so that what Kling wrote is never parsed and written again on its way to
a destination: the *envelope* is the object without ``data.kling``, the *body* is that member as it came.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from receiver.clock import iso
from receiver.model import Event, Json, Source, Task, TaskState, Verified

_END = b"}}"


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


def envelope(type_: str, at: datetime, data: Json) -> bytes:
    """Write the event object around its *data*; what Kling wrote is spliced in by :func:`joined`."""
    return json.dumps({"type": type_, "timestamp": iso(at), "data": data}, separators=(",", ":")).encode()


def joined(event: Event) -> bytes:
    """Give the whole object as destinations receive it."""
    if not event.body:
        return event.envelope
    return event.envelope.removesuffix(_END) + b',"kling":' + event.body + _END
