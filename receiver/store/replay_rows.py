"""Replays as rows, and back, and the query of each selection."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from msgspec.structs import asdict

from receiver.domain.clock import MICROSECOND, from_micros, micros
from receiver.domain.model import DeliveryStatus
from receiver.domain.replays import Replay, ReplayCount, ReplayItem, ReplaySelection, ReplayState, ReplayStep
from receiver.store.rows import Row, Values, datetime_or_none, micros_or_none, storable_text


def selection_query(replay: Replay) -> tuple[str, Mapping[str, object]]:
    """Return the name and the arguments of the query for a replay's selection. Lists are tuples."""
    selection = replay.selection
    shared = {
        "events": _filter(selection.events),
        "task_id": selection.task_id,
        "since": micros_or_none(selection.since),
        "until": micros_or_none(selection.until),
        "to_route": selection.to_route,
    }
    prefix = "evt" if selection.selects_events else "dlv"
    span = {"cursor": replay.cursor, "last": f"{prefix}_{replay.last}"}
    if selection.selects_events:
        return "events_to_replay", {**shared, **span, "event_kinds": _filter(selection.event_kinds)}
    return "deliveries_to_replay", {
        **shared,
        **span,
        "deliveries": _filter(selection.deliveries),
        "route": selection.route,
        "statuses": _filter([status.value for status in selection.statuses]),
        "only_dead": True if selection.statuses == (DeliveryStatus.DEAD,) else None,  # an index has them
        "known_routes": tuple(selection.known_routes) if selection.to_route is None else None,
        "same_route": None if selection.to_route is not None else True,
        "requested_at": micros(replay.created_at),
    }


def _filter(values: Sequence[str]) -> tuple[str, ...] | None:
    return tuple(values) or None


def read_count(row: Row) -> ReplayCount:
    """Read one group of a replay's items."""
    return ReplayCount(
        route=row["route"],
        status=None if row["status"] is None else DeliveryStatus(row["status"]),
        count=row["count"],
        oldest=from_micros(row["oldest"]),
        newest=from_micros(row["newest"]),
    )


def read_item(row: Row) -> ReplayItem:
    """Read an item of a replay."""
    return ReplayItem(
        position=row["position"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        task_id=row["event_task_id"],
        route=row["route"],
        replay_of=row["replay_of"],
        created_at=from_micros(row["created_at"]),
    )


def read_replay(row: Row) -> Replay:
    """Read a replay from its row."""
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
        finished_at=datetime_or_none(row["finished_at"]),
    )


def _selection(members: dict[str, Any]) -> ReplaySelection:
    return ReplaySelection(
        deliveries=tuple(members["deliveries"]),
        events=tuple(members["events"]),
        task_id=members["task_id"],
        route=members["route"],
        statuses=tuple(DeliveryStatus(status) for status in members["statuses"]),
        since=datetime_or_none(members["since"]),
        until=datetime_or_none(members["until"]),
        to_route=members["to_route"],
        event_kinds=tuple(members["event_kinds"]),
        known_routes=tuple(members["known_routes"]),
    )


def replay_row(replay: Replay) -> Values:
    """Return the row of a replay for ``insert_replay``."""
    selection = replay.selection
    members = asdict(selection) | {"since": micros_or_none(selection.since), "until": micros_or_none(selection.until)}
    count, per = (None, None) if replay.rate is None else replay.rate
    return (
        replay.id,
        replay.state.value,
        json.dumps(members, separators=(",", ":")),
        storable_text(replay.actor),
        storable_text(replay.why),
        replay.last,
        replay.total,
        micros(replay.created_at),
        count,
        None if per is None else per // MICROSECOND,
        replay.cursor,
        replay.created,
        micros_or_none(replay.finished_at),
    )


def advance_arguments(step: ReplayStep) -> Mapping[str, object]:
    """Return the arguments of a step for ``advance_replay``."""
    state = ReplayState.RUNNING if step.finished_at is None else ReplayState.DONE
    return {
        "id": step.replay.id,
        "before": step.replay.cursor,
        "after": step.cursor,
        "made": len(step.deliveries),
        "state": state.value,
        "finished_at": micros_or_none(step.finished_at),
    }
