"""Rows to values and back. The order of each ``*_row`` is the order of its INSERT in ``sql/queries.sql``."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import MICROSECOND, from_micros, micros
from receiver.domain.model import (
    ArchiveState,
    Asset,
    Attempt,
    Delivery,
    DeliveryStatus,
    EndReason,
    Event,
    HeldBy,
    Origin,
    Push,
    PushOutcome,
    RouteDecision,
    RouteState,
    Source,
    Task,
    TaskState,
    Verification,
)
from receiver.domain.replays import Replay, ReplaySelection, ReplayState

Values: TypeAlias = tuple[object, ...]


class Row(Protocol):
    """A row as any driver gives it: values by the column's name."""

    def __getitem__(self, column: str, /) -> Any:  # noqa: ANN401 -- what a column holds is the schema's word
        ...


def as_dicts(found: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    """Give rows as dictionaries: to find a column, SQLite's own compare its name with those of all before it."""
    columns = [column[0] for column in found.description]
    return (dict(zip(columns, row, strict=True)) for row in found)


def task(row: Row) -> Task:
    """Read a task."""
    return Task(
        id=row["id"],
        origin=Origin(row["origin"]),
        state=TaskState(row["state"]),
        created_at=from_micros(row["created_at"]),
        updated_at=from_micros(row["updated_at"]),
        token_hash=row["token_hash"],
        endpoint=row["endpoint"],
        label=row["label"],
        tags=json.loads(row["tags"]),
        batch=row["batch"],
        idempotency_key=row["idempotency_key"],
        kling_id=row["kling_id"],
        external_task_id=row["external_task_id"],
        reply_to=row["reply_to"],
        message=row["message"],
        kling_state=None if row["kling_state"] is None else TaskState(row["kling_state"]),
        end_reason=None if row["end_reason"] is None else EndReason(row["end_reason"]),
        pack=row["pack"] or None,
        weight=row["weight"],
        priority=row["priority"],
        fair_share=row["fair_share"],
        attempts=row["attempts"],
        poll_count=row["poll_count"],
        empty_result_count=row["empty_result_count"],
        redundant_push_count=row["redundant_push_count"],
        started_at=_datetime_or_none(row["started_at"]),
        polled_at=_datetime_or_none(row["polled_at"]),
        push_poll_at=_datetime_or_none(row["push_poll_at"]),
        stuck_at=_datetime_or_none(row["stuck_at"]),
        due_at=_datetime_or_none(row["due_at"]),
        expires_at=_datetime_or_none(row["expires_at"]),
    )


def new_task_row(task: Task) -> Values:
    """Write a task for ``insert_task``."""
    return (
        task.id,
        task.origin.value,
        task.state.value,
        micros(task.created_at),
        micros(task.updated_at),
        task.token_hash,
        _storable_text(task.endpoint),
        _storable_text(task.label),
        _tags(task.tags),
        task.batch,
        task.idempotency_key,
        _storable_text(task.kling_id),
        _storable_text(task.external_task_id),
        task.reply_to,
        _storable_text(task.message),
        None if task.kling_state is None else task.kling_state.value,
        None if task.end_reason is None else task.end_reason.value,
        task.pack or "",
        task.weight,
        task.priority,
        _storable_text(task.fair_share),
        task.attempts,
        task.poll_count,
        task.empty_result_count,
        task.redundant_push_count,
        _micros_or_none(task.started_at),
        _micros_or_none(task.polled_at),
        _micros_or_none(task.push_poll_at),
        _micros_or_none(task.stuck_at),
        _micros_or_none(task.due_at),
        _micros_or_none(task.expires_at),
    )


def task_row(task: Task) -> Values:
    """Write a task for ``save_task``."""
    return (
        task.id,
        task.state.value,
        micros(task.updated_at),
        task.token_hash,
        _storable_text(task.endpoint),
        _storable_text(task.label),
        _tags(task.tags),
        _storable_text(task.kling_id),
        _storable_text(task.external_task_id),
        task.reply_to,
        _storable_text(task.message),
        None if task.kling_state is None else task.kling_state.value,
        None if task.end_reason is None else task.end_reason.value,
        task.pack or "",
        task.weight,
        task.attempts,
        task.poll_count,
        task.empty_result_count,
        task.redundant_push_count,
        _micros_or_none(task.started_at),
        _micros_or_none(task.polled_at),
        _micros_or_none(task.push_poll_at),
        _micros_or_none(task.stuck_at),
        _micros_or_none(task.due_at),
        _micros_or_none(task.expires_at),
    )


def push(row: Row) -> Push:
    """Read a push."""
    return Push(
        id=row["id"],
        task_id=row["task_id"],
        source=Source(row["source"]),
        headers=tuple((name, value) for name, value in json.loads(row["headers"])),
        body=row["body"] or b"",
        digest=row["digest"],
        received_at=from_micros(row["received_at"]),
        outcome=PushOutcome(row["outcome"]),
    )


def push_row(push: Push) -> Values:
    """Write a push for ``insert_push``."""
    return (
        push.id,
        push.task_id,
        push.source.value,
        json.dumps(push.headers, separators=(",", ":")),
        push.body,
        push.digest,
        micros(push.received_at),
        push.outcome.value,
    )


def event(row: Row) -> Event:
    """Read an event."""
    return Event(
        id=row["id"],
        type=row["type"],
        envelope=row["envelope"],
        body=row["body"],
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


def event_of_delivery(row: Row) -> Event:
    """Read the event that ``due_deliveries`` gives beside a delivery."""
    return Event(
        id=row["event_id"],
        type=row["event_type"],
        envelope=row["event_envelope"],
        body=row["event_body"],
        verified=Verification(row["event_verified"]),
        created_at=from_micros(row["event_created_at"]),
        task_id=row["event_task_id"],
        push_id=row["event_push_id"],
    )


def event_row(event: Event) -> Values:
    """Write an event for ``insert_event``."""
    return (
        event.id,
        event.task_id,
        event.push_id,
        event.type,
        event.envelope,
        event.body,
        event.verified.value,
        micros(event.created_at),
        _decisions(event.decisions),
        None if event.archiving is None else event.archiving.value,
        None if event.archiving is None else micros(event.created_at),
    )


def asset_row(event_id: str, asset: Asset) -> Values:
    """Write an asset for ``insert_asset``."""
    where = (asset.path, asset.storage)
    return (event_id, asset.number, asset.url, *where, asset.sha256, asset.size, asset.content_type)


def delivery(row: Row) -> Delivery:
    """Read a delivery."""
    return Delivery(
        id=row["id"],
        event_id=row["event_id"],
        route=row["route"],
        status=DeliveryStatus(row["status"]),
        created_at=from_micros(row["created_at"]),
        due_at=from_micros(row["due_at"]),
        attempts=row["attempts"],
        probes=row["probes"],
        unfinished_claims=row["unfinished_claims"],
        claim=row["claim"],
        replay_of=row["replay_of"],
        finished_at=_datetime_or_none(row["finished_at"]),
    )


def delivery_row(delivery: Delivery) -> Values:
    """Write a delivery for ``insert_delivery``."""
    return (
        delivery.id,
        delivery.event_id,
        delivery.route,
        delivery.status.value,
        micros(delivery.created_at),
        micros(delivery.due_at),
        delivery.attempts,
        delivery.probes,
        delivery.unfinished_claims,
        delivery.claim,
        delivery.replay_of,
        _micros_or_none(delivery.finished_at),
    )


def attempt(row: Row) -> Attempt:
    """Read an attempt."""
    return Attempt(
        delivery_id=row["delivery_id"],
        number=row["number"],
        started_at=from_micros(row["started_at"]),
        duration=timedelta(microseconds=row["duration"]),
        outcome=row["outcome"],
        code=row["code"],
        reason=row["reason"],
        excerpt=row["excerpt"],
    )


def attempt_row(attempt: Attempt) -> Values:
    """Write an attempt for ``insert_attempt``."""
    return (
        attempt.delivery_id,
        attempt.number,
        micros(attempt.started_at),
        attempt.duration // MICROSECOND,
        attempt.outcome,
        attempt.code,
        _storable_text(attempt.reason),
        attempt.excerpt,
    )


def route_state(row: Row) -> RouteState:
    """Read a route's state."""
    return RouteState(
        name=row["name"],
        failures=row["failures"],
        held_at=_datetime_or_none(row["held_at"]),
        held_by=None if row["held_by"] is None else HeldBy(row["held_by"]),
        held_why=row["held_why"],
        probe_at=_datetime_or_none(row["probe_at"]),
        released_at=_datetime_or_none(row["released_at"]),
    )


def route_state_row(state: RouteState) -> Values:
    """Write a route's state for ``save_route``."""
    return (
        state.name,
        state.failures,
        _micros_or_none(state.held_at),
        None if state.held_by is None else state.held_by.value,
        _storable_text(state.held_why),
        _micros_or_none(state.probe_at),
        _micros_or_none(state.released_at),
    )


def replay(row: Row) -> Replay:
    """Read a replay."""
    rate = None if row["rate_count"] is None else (row["rate_count"], timedelta(microseconds=row["rate_per"]))
    return Replay(
        id=row["id"],
        state=ReplayState(row["state"]),
        selection=_selection(json.loads(row["selection"])),
        actor=row["actor"],
        why=row["why"],
        last=row["last"],
        total=row["total"],
        created_at=from_micros(row["created_at"]),
        rate=rate,
        cursor=row["cursor"],
        created=row["created"],
        finished_at=_datetime_or_none(row["finished_at"]),
    )


def _selection(members: dict[str, Any]) -> ReplaySelection:
    return ReplaySelection(
        deliveries=tuple(members["deliveries"]),
        events=tuple(members["events"]),
        task_id=members["task_id"],
        route=members["route"],
        statuses=tuple(DeliveryStatus(status) for status in members["statuses"]),
        since=_datetime_or_none(members["since"]),
        until=_datetime_or_none(members["until"]),
        to_route=members["to_route"],
        event_kinds=tuple(members["event_kinds"]),
        known_routes=tuple(members["known_routes"]),
    )


def replay_row(replay: Replay) -> Values:
    """Write a replay for ``insert_replay``."""
    selection = replay.selection
    members = asdict(selection) | {"since": _micros_or_none(selection.since), "until": _micros_or_none(selection.until)}
    count, per = (None, None) if replay.rate is None else replay.rate
    return (
        replay.id,
        replay.state.value,
        json.dumps(members, separators=(",", ":")),
        _storable_text(replay.actor),
        _storable_text(replay.why),
        replay.last,
        replay.total,
        micros(replay.created_at),
        count,
        None if per is None else per // MICROSECOND,
        replay.cursor,
        replay.created,
        _micros_or_none(replay.finished_at),
    )


def action(row: Row) -> AuditEntry:
    """Read what a person did."""
    return AuditEntry(
        at=from_micros(row["at"]), actor=row["actor"], verb=row["verb"], subject=row["subject"], reason=row["reason"]
    )


def action_row(action: AuditEntry) -> Values:
    """Write what a person did for ``insert_action``."""
    return (
        micros(action.at),
        _storable_text(action.actor),
        action.verb,
        _storable_text(action.subject),
        _storable_text(action.reason),
    )


def _decisions(decisions: Sequence[RouteDecision]) -> str:
    if not decisions:
        return "[]"
    rows = [(decision.route, int(decision.wanted), decision.reason) for decision in decisions]
    return json.dumps(rows, separators=(",", ":"))


def _tags(tags: Mapping[str, str]) -> str:
    return json.dumps(dict(tags), separators=(",", ":")) if tags else "{}"


def _micros_or_none(at: datetime | None) -> int | None:
    return None if at is None else micros(at)


def _datetime_or_none(at: int | None) -> datetime | None:
    return None if at is None else from_micros(at)


def _storable_text(text: str | None) -> str | None:
    """Replace what not every database holds as text: a stranger's NUL or lone surrogate must not lose a push."""
    if text is None or (text.isascii() and "\x00" not in text):
        return text
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
