"""Rows to values and back. The order of each ``*_row`` is the order of its INSERT in ``sql/queries.sql``."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias

from receiver.domain.clock import MICROSECOND, micros, moment
from receiver.domain.model import (
    Archiving,
    Asset,
    Attempt,
    Decision,
    Delivery,
    DeliveryStatus,
    Event,
    HeldBy,
    Origin,
    Push,
    PushOutcome,
    RouteState,
    Source,
    Task,
    TaskState,
    Verified,
)
from receiver.domain.replays import Action, Replay, ReplayState, Selection

Values: TypeAlias = tuple[object, ...]


class Row(Protocol):
    """A row as any driver gives it: values by the column's name."""

    def __getitem__(self, column: str, /) -> Any:  # noqa: ANN401 -- what a column holds is the schema's word
        ...


def named(found: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    """Give rows as dictionaries: to find a column, SQLite's own compare its name with those of all before it."""
    columns = [column[0] for column in found.description]
    return (dict(zip(columns, row, strict=True)) for row in found)


def task(row: Row) -> Task:
    """Read a task."""
    return Task(
        id=row["id"],
        origin=Origin(row["origin"]),
        state=TaskState(row["state"]),
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
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
        heard=None if row["heard"] is None else TaskState(row["heard"]),
        pack=row["pack"] or None,
        weight=row["weight"],
        priority=row["priority"],
        share=row["share"],
        attempts=row["attempts"],
        asks=row["asks"],
        hollow=row["hollow"],
        surplus=row["surplus"],
        started_at=_moment(row["started_at"]),
        asked_at=_moment(row["asked_at"]),
        prompted_at=_moment(row["prompted_at"]),
        stuck_at=_moment(row["stuck_at"]),
        due_at=_moment(row["due_at"]),
        expires_at=_moment(row["expires_at"]),
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
        _text(task.endpoint),
        _text(task.label),
        _tags(task.tags),
        task.batch,
        task.idempotency_key,
        _text(task.kling_id),
        _text(task.external_task_id),
        task.reply_to,
        _text(task.message),
        None if task.heard is None else task.heard.value,
        task.pack or "",
        task.weight,
        task.priority,
        _text(task.share),
        task.attempts,
        task.asks,
        task.hollow,
        task.surplus,
        _micros(task.started_at),
        _micros(task.asked_at),
        _micros(task.prompted_at),
        _micros(task.stuck_at),
        _micros(task.due_at),
        _micros(task.expires_at),
    )


def task_row(task: Task) -> Values:
    """Write a task for ``save_task``."""
    return (
        task.id,
        task.state.value,
        micros(task.updated_at),
        task.token_hash,
        _text(task.endpoint),
        _text(task.label),
        _tags(task.tags),
        _text(task.kling_id),
        _text(task.external_task_id),
        task.reply_to,
        _text(task.message),
        None if task.heard is None else task.heard.value,
        task.pack or "",
        task.weight,
        task.attempts,
        task.asks,
        task.hollow,
        task.surplus,
        _micros(task.started_at),
        _micros(task.asked_at),
        _micros(task.prompted_at),
        _micros(task.stuck_at),
        _micros(task.due_at),
        _micros(task.expires_at),
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
        received_at=moment(row["received_at"]),
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
        verified=Verified(row["verified"]),
        created_at=moment(row["created_at"]),
        task_id=row["task_id"],
        push_id=row["push_id"],
        decisions=tuple(
            Decision(route=route, wanted=bool(wanted), reason=reason)
            for route, wanted, reason in json.loads(row["decisions"])
        ),
        archiving=None if row["archiving"] is None else Archiving(row["archiving"]),
    )


def event_of_delivery(row: Row) -> Event:
    """Read the event that ``due_deliveries`` gives beside a delivery."""
    return Event(
        id=row["event_id"],
        type=row["event_type"],
        envelope=row["event_envelope"],
        body=row["event_body"],
        verified=Verified(row["event_verified"]),
        created_at=moment(row["event_created_at"]),
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
        created_at=moment(row["created_at"]),
        due_at=moment(row["due_at"]),
        attempts=row["attempts"],
        probes=row["probes"],
        unfinished=row["unfinished"],
        claim=row["claim"],
        replay_of=row["replay_of"],
        finished_at=_moment(row["finished_at"]),
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
        delivery.unfinished,
        delivery.claim,
        delivery.replay_of,
        _micros(delivery.finished_at),
    )


def attempt(row: Row) -> Attempt:
    """Read an attempt."""
    return Attempt(
        delivery_id=row["delivery_id"],
        number=row["number"],
        started_at=moment(row["started_at"]),
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
        _text(attempt.reason),
        attempt.excerpt,
    )


def route_state(row: Row) -> RouteState:
    """Read a route's state."""
    return RouteState(
        name=row["name"],
        failures=row["failures"],
        held_at=_moment(row["held_at"]),
        held_by=None if row["held_by"] is None else HeldBy(row["held_by"]),
        held_why=row["held_why"],
        probe_at=_moment(row["probe_at"]),
        released_at=_moment(row["released_at"]),
    )


def route_state_row(state: RouteState) -> Values:
    """Write a route's state for ``save_route``."""
    return (
        state.name,
        state.failures,
        _micros(state.held_at),
        None if state.held_by is None else state.held_by.value,
        _text(state.held_why),
        _micros(state.probe_at),
        _micros(state.released_at),
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
        created_at=moment(row["created_at"]),
        rate=rate,
        cursor=row["cursor"],
        created=row["created"],
        finished_at=_moment(row["finished_at"]),
    )


def _selection(members: dict[str, Any]) -> Selection:
    return Selection(
        deliveries=tuple(members["deliveries"]),
        events=tuple(members["events"]),
        task_id=members["task_id"],
        route=members["route"],
        statuses=tuple(DeliveryStatus(status) for status in members["statuses"]),
        since=_moment(members["since"]),
        until=_moment(members["until"]),
        to_route=members["to_route"],
        words=tuple(members["words"]),
        among=tuple(members["among"]),
    )


def replay_row(replay: Replay) -> Values:
    """Write a replay for ``insert_replay``."""
    selection = replay.selection
    members = asdict(selection) | {"since": _micros(selection.since), "until": _micros(selection.until)}
    count, per = (None, None) if replay.rate is None else replay.rate
    return (
        replay.id,
        replay.state.value,
        json.dumps(members, separators=(",", ":")),
        _text(replay.actor),
        _text(replay.why),
        replay.last,
        replay.total,
        micros(replay.created_at),
        count,
        None if per is None else per // MICROSECOND,
        replay.cursor,
        replay.created,
        _micros(replay.finished_at),
    )


def action(row: Row) -> Action:
    """Read what a person did."""
    return Action(at=moment(row["at"]), actor=row["actor"], verb=row["verb"], subject=row["subject"], note=row["note"])


def action_row(action: Action) -> Values:
    """Write what a person did for ``insert_action``."""
    return (micros(action.at), _text(action.actor), action.verb, _text(action.subject), _text(action.note))


def _decisions(decisions: Sequence[Decision]) -> str:
    if not decisions:
        return "[]"
    rows = [(decision.route, int(decision.wanted), decision.reason) for decision in decisions]
    return json.dumps(rows, separators=(",", ":"))


def _tags(tags: Mapping[str, str]) -> str:
    return json.dumps(dict(tags), separators=(",", ":")) if tags else "{}"


def _micros(at: datetime | None) -> int | None:
    return None if at is None else micros(at)


def _moment(at: int | None) -> datetime | None:
    return None if at is None else moment(at)


def _text(text: str | None) -> str | None:
    """Replace what not every database holds as text: a stranger's NUL or lone surrogate must not lose a push."""
    if text is None or (text.isascii() and "\x00" not in text):
        return text
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
