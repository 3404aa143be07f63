"""Deliveries, attempts and route states as rows, and back.

The values of each ``*_row`` have the order of its statement in the SQL files of each database.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from receiver.domain.clock import MICROSECOND, from_micros, micros
from receiver.domain.model import Attempt, Delivery, DeliveryStatus, Event, HeldBy, RouteState, Verification
from receiver.store.interfaces import ClaimedDelivery, DeliveryView
from receiver.store.packing import unpack_event
from receiver.store.rows import Row, Values, datetime_or_none, micros_or_none, storable_text

_VERIFICATIONS = {each.value: each for each in Verification}  # an enum's own constructor takes ten times as long


def delivery(row: Row) -> Delivery:
    """Read a delivery from its row."""
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
        finished_at=datetime_or_none(row["finished_at"]),
    )


def delivery_view(row: Row) -> DeliveryView:
    """Read a delivery with its event's type and task id."""
    return DeliveryView(delivery=delivery(row), event_type=row["event_type"], task_id=row["event_task_id"])


def claimed_delivery(row: Iterable[Any], *, claim: str, until: datetime) -> ClaimedDelivery:
    """Read a delivery that is now claimed from its row of ``due_deliveries``, with its event."""
    (id_, route, created_at, due_at, attempts, probes, unfinished_claims, replay_of, *event, reply_to) = row
    (event_id, type_, *packed, verified, event_created_at, task_id, push_id) = event
    envelope, body = unpack_event(*packed)
    return ClaimedDelivery(
        delivery=Delivery(
            id=id_,
            event_id=event_id,
            route=route,
            status=DeliveryStatus.PENDING,
            created_at=from_micros(created_at),
            due_at=until,
            attempts=attempts,
            probes=probes,
            unfinished_claims=unfinished_claims,
            claim=claim,
            replay_of=replay_of,
        ),
        event=Event(
            id=event_id,
            type=type_,
            envelope=envelope,
            body=body,
            verified=_VERIFICATIONS[verified],
            created_at=from_micros(event_created_at),
            task_id=task_id,
            push_id=push_id,
        ),
        reply_to=reply_to,
        due_since=from_micros(due_at),
    )


def delivery_row(delivery: Delivery) -> Values:
    """Return the row of a delivery for ``insert_delivery``."""
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
        micros_or_none(delivery.finished_at),
    )


def attempt(row: Row) -> Attempt:
    """Read an attempt from its row."""
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
    """Return the row of an attempt for ``insert_attempt``."""
    return (
        attempt.delivery_id,
        attempt.number,
        micros(attempt.started_at),
        attempt.duration // MICROSECOND,
        attempt.outcome,
        attempt.code,
        storable_text(attempt.reason),
        attempt.excerpt,
    )


def route_state(row: Row) -> RouteState:
    """Read a route's state from its row."""
    return RouteState(
        name=row["name"],
        failures=row["failures"],
        held_at=datetime_or_none(row["held_at"]),
        held_by=None if row["held_by"] is None else HeldBy(row["held_by"]),
        held_why=row["held_why"],
        probe_at=datetime_or_none(row["probe_at"]),
        released_at=datetime_or_none(row["released_at"]),
    )


def route_state_row(state: RouteState) -> Values:
    """Return the row of a route's state for ``save_route``."""
    return (
        state.name,
        state.failures,
        micros_or_none(state.held_at),
        None if state.held_by is None else state.held_by.value,
        storable_text(state.held_why),
        micros_or_none(state.probe_at),
        micros_or_none(state.released_at),
    )
