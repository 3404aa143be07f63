"""Tasks, pushes, events and audit entries as rows, and back.

The values of each ``*_row`` have the order of its statement in the SQL files of each database.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import from_micros, micros
from receiver.domain.model import (
    ArchiveState,
    Asset,
    ClientCallbacks,
    EndReason,
    Event,
    Origin,
    Polling,
    Push,
    PushOutcome,
    RouteDecision,
    Source,
    Task,
    TaskState,
    Verification,
)
from receiver.domain.queueing import Queueing
from receiver.store.interfaces import QueuedTask, SlotUse
from receiver.store.packing import pack, pack_event, unpack, unpack_event

Values: TypeAlias = tuple[object, ...]

# Looked up for each task of a push: an enum's own constructor takes ten times as long.
_ORIGINS = {origin.value: origin for origin in Origin}
_STATES = {state.value: state for state in TaskState}
_CLIENT_CALLBACKS = {callbacks.value: callbacks for callbacks in ClientCallbacks}
_encode_json = msgspec.json.Encoder().encode

_FIXED = ("id", "origin", "created_at", "batch", "idempotency_key", "priority", "fair_share")
CHANGEABLE = (
    "state",
    "updated_at",
    "token_hash",
    "endpoint",
    "label",
    "tags",
    "kling_id",
    "external_task_id",
    "reply_to",
    "message",
    "kling_state",
    "end_reason",
    "is_end_unverified",
    "slot_key",
    "weight",
    "attempts",
    "poll_count",
    "empty_result_count",
    "redundant_push_count",
    "started_at",
    "polled_at",
    "push_poll_at",
    "stuck_at",
    "due_at",
    "expires_at",
    "client_callbacks",
)
"""The columns of a task that may change, in the order of :func:`changeable_values`."""
_COLUMNS = (*_FIXED, *CHANGEABLE)


class Row(Protocol):
    """A row of any driver: values by column name."""

    def __getitem__(self, column: str, /) -> Any:  # noqa: ANN401 -- the schema defines the type of each column
        ...


@cache
def ordered_by(names: tuple[str, ...]) -> Callable[[Any], Values]:
    """Return a function that orders a row of these columns as ``task_with_values`` expects it."""
    return itemgetter(*(names.index(column) for column in _COLUMNS))


def task_with_values(values: Values) -> tuple[Task, Values]:
    """Read a task from its ordered values; return it with its values of the columns ``CHANGEABLE``."""
    return _task(values), values[len(_FIXED) :]


def task(row: Row) -> Task:
    """Read a task from its row."""
    return _task(tuple(row[column] for column in _COLUMNS))


def _task(values: Values) -> Task:
    values_by_position: tuple[Any, ...] = values  # by name it would take three times as long
    (
        id_, origin, created_at, batch, idempotency_key, priority, share, state, updated_at, token_hash, endpoint,
        label, tags, kling_id, external_task_id, reply_to, message, kling_state, end_reason, is_end_unverified,
        slot_key, weight, attempts, poll_count, empty_results, redundant_push_count, started_at, polled_at,
        push_poll_at, stuck_at, due_at, expires_at, client_callbacks,
    ) = values_by_position  # fmt: skip
    return Task(
        id=id_,
        origin=_ORIGINS[origin],
        state=_STATES[state],
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
        token_hash=token_hash,
        endpoint=endpoint,
        label=label,
        tags={} if tags == "{}" else json.loads(tags),
        batch=batch,
        idempotency_key=idempotency_key,
        kling_id=kling_id,
        external_task_id=external_task_id,
        reply_to=reply_to,
        client_callbacks=_CLIENT_CALLBACKS[client_callbacks],
        message=message,
        kling_state=None if kling_state is None else _STATES[kling_state],
        end_reason=None if end_reason is None else EndReason(end_reason),
        is_end_unverified=bool(is_end_unverified),
        queueing=Queueing(slot_key=slot_key, weight=weight, priority=priority, share=share, attempts=attempts),
        polling=_polling(poll_count, polled_at, push_poll_at, empty_results),
        redundant_push_count=redundant_push_count,
        started_at=datetime_or_none(started_at),
        stuck_at=datetime_or_none(stuck_at),
        due_at=datetime_or_none(due_at),
        expires_at=datetime_or_none(expires_at),
    )


def _polling(count: int, at: int | None, push_at: int | None, empty_results: int) -> Polling:
    return Polling(count=count, at=datetime_or_none(at), push_at=datetime_or_none(push_at), empty_results=empty_results)


NO_SLOTS = SlotUse(all={}, confirmed={})


def queued_task(row: Row) -> QueuedTask:
    """Read a queued task with the size of its body from its row."""
    return QueuedTask(task=task(row), size=row["body_size"])


def slot_use(found: Sequence[Row]) -> SlotUse:
    """Read the slots in use from the rows of ``slots_in_use``."""
    return SlotUse(
        all={row["slot_key"]: row["slots"] for row in found},
        confirmed={row["slot_key"]: row["confirmed"] for row in found if row["confirmed"]},
    )


def new_task_row(task: Task) -> Values:
    """Return the row of a task for ``insert_task``: the values that never change, then the others."""
    return (
        task.id,
        task.origin.value,
        micros(task.created_at),
        task.batch,
        task.idempotency_key,
        task.queueing.priority,
        storable_text(task.queueing.share),
        *changeable_values(task),
    )


def changeable_values(task: Task) -> Values:
    """Return the values of a task for the columns ``CHANGEABLE``."""
    return (
        task.state.value,
        micros(task.updated_at),
        task.token_hash,
        storable_text(task.endpoint),
        storable_text(task.label),
        _tags(task.tags),
        storable_text(task.kling_id),
        storable_text(task.external_task_id),
        task.reply_to,
        storable_text(task.message),
        None if task.kling_state is None else task.kling_state.value,
        None if task.end_reason is None else task.end_reason.value,
        task.is_end_unverified,
        task.queueing.slot_key,
        task.queueing.weight,
        task.queueing.attempts,
        task.polling.count,
        task.polling.empty_results,
        task.redundant_push_count,
        micros_or_none(task.started_at),
        micros_or_none(task.polling.at),
        micros_or_none(task.polling.push_at),
        micros_or_none(task.stuck_at),
        micros_or_none(task.due_at),
        micros_or_none(task.expires_at),
        task.client_callbacks.value,
    )


def push(row: Row) -> Push:
    """Read a push from its row."""
    return Push(
        id=row["id"],
        task_id=row["task_id"],
        source=Source(row["source"]),
        headers=tuple((name, value) for name, value in json.loads(row["headers"])),
        body=unpack(row["body"] or b""),
        digest=row["digest"],
        received_at=from_micros(row["received_at"]),
        outcome=PushOutcome(row["outcome"]),
    )


def push_row(push: Push, *, is_in_event: bool) -> Values:
    """Return the row of a push for ``insert_push``. A callback's body is not stored twice if its event has it too."""
    is_copy = is_in_event and push.source is Source.CALLBACK and push.outcome is not PushOutcome.PENDING
    return (
        push.id,
        push.task_id,
        push.source.value,
        to_json(push.headers),
        None if is_copy else pack(push.body),
        push.digest,
        micros(push.received_at),
        push.outcome.value,
    )


def event(row: Row) -> Event:
    """Read an event from its row."""
    envelope, body = unpack_event(row["envelope"], row["body"])
    return Event(
        id=row["id"],
        type=row["type"],
        envelope=envelope,
        body=body,
        verified=Verification(row["verified"]),
        created_at=from_micros(row["created_at"]),
        task_id=row["task_id"],
        push_id=row["push_id"],
        decisions=tuple(
            RouteDecision(route=route, wanted=bool(wanted), reason=reason)
            for route, wanted, reason in json.loads(row["decisions"])
        ),
        archiving=None if row["archiving"] is None else ArchiveState(row["archiving"]),
    )


def event_row(event: Event) -> Values:
    """Return the row of an event for ``insert_event``."""
    return (
        event.id,
        event.task_id,
        event.push_id,
        event.type,
        *pack_event(event.envelope, event.body),
        event.verified.value,
        micros(event.created_at),
        _decisions(event.decisions),
        None if event.archiving is None else event.archiving.value,
        None if event.archiving is None else micros(event.created_at),
    )


def asset_row(event_id: str, asset: Asset) -> Values:
    """Return the row of an asset for ``insert_asset``."""
    location = (asset.path, asset.storage)
    return (event_id, asset.number, asset.url, *location, asset.sha256, asset.size, asset.content_type)


def asset(row: Row) -> Asset:
    """Read an asset from its row."""
    return Asset(
        number=row["number"],
        url=row["url"],
        path=row["path"],
        storage=row["storage"],
        sha256=row["sha256"],
        size=row["bytes"],
        content_type=row["content_type"],
    )


def action(row: Row) -> AuditEntry:
    """Read an audit entry from its row."""
    return AuditEntry(
        at=from_micros(row["at"]), actor=row["actor"], verb=row["verb"], subject=row["subject"], reason=row["reason"]
    )


def action_row(action: AuditEntry) -> Values:
    """Return the row of an audit entry for ``insert_action``."""
    return (
        micros(action.at),
        storable_text(action.actor),
        action.verb,
        storable_text(action.subject),
        storable_text(action.reason),
    )


def _decisions(decisions: Sequence[RouteDecision]) -> str:
    if not decisions:
        return "[]"
    rows = [(decision.route, int(decision.wanted), decision.reason) for decision in decisions]
    return to_json(rows)


def _tags(tags: Mapping[str, str]) -> str:
    return to_json(dict(tags)) if tags else "{}"


def to_json(value: object) -> str:
    """Return a value as JSON."""
    try:
        return _encode_json(value).decode()
    except ValueError:  # half of a surrogate pair, which only JSON's escapes can store
        return json.dumps(value, separators=(",", ":"))


def micros_or_none(at: datetime | None) -> int | None:
    """Return the stored form of a moment; None stays None."""
    return None if at is None else micros(at)


def datetime_or_none(at: int | None) -> datetime | None:
    """Return the moment of a stored value; None stays None."""
    return None if at is None else from_micros(at)


def storable_text(text: str | None) -> str | None:
    """Replace NULs and lone surrogates, which not every database can store. One of them must not lose a push."""
    if text is None or (text.isascii() and "\x00" not in text):
        return text
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
