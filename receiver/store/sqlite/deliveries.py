"""Deliveries in the store's file: claims, attempts, releases, and the states of routes.

Each write is one function for a whole group of callers.
"""

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Unpack

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import micros
from receiver.domain.model import Attempt, RouteState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.store import delivery_rows, rows
from receiver.store.delivery_calls import (
    MAX_ATTEMPTS_RETAINED,
    BringForwardCall,
    ClaimCall,
    ClaimRoutesCall,
    RecordAttemptCall,
    ReleaseAllCall,
    ReleaseCall,
    RetryNowCall,
    SaveRouteCall,
    drop_claim,
    verdict_row,
)
from receiver.store.interfaces import ClaimedDelivery, ClaimedRoutes, ClaimOptions, RecoveredClaims, RouteClaim
from receiver.store.sqlite import catalog
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import queries, sql, with_list, write_rows
from receiver.store.sqlite.task_changes import write_events
from receiver.store.sqlite.writer import WriteOp, Writer, bodiless


class SqliteDeliveryQueue:
    """The queue of deliveries and the states of routes, in the store's file."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def due_routes(self) -> Mapping[str, datetime]:
        """Return when each route's next delivery is due."""
        return await self._hot.read(catalog.due_routes)

    async def claim(self, route: str, **options: Unpack[ClaimOptions]) -> Sequence[ClaimedDelivery]:
        """Claim due deliveries of *route*."""
        return await self._writer.execute(_CLAIM, ClaimCall(route=route, **options))

    async def claim_routes(
        self, wanted: Sequence[RouteClaim], *, now: datetime, skip: Collection[str] = ()
    ) -> ClaimedRoutes:
        """Claim due deliveries of several routes."""
        return await self._writer.execute(_CLAIM_ROUTES, ClaimRoutesCall(wanted=wanted, now=now, skip=skip))

    async def record_attempt(
        self,
        attempt: Attempt,
        verdict: Verdict,
        *,
        claim: str,
        route: RouteState | None = None,
        alerts: Sequence[RoutedEvent] = (),
    ) -> bool:
        """Store an attempt, its verdict and the route's state, unless the claim has changed."""
        call = RecordAttemptCall(attempt=attempt, verdict=verdict, claim=claim, route=route, alerts=alerts)
        return await self._writer.execute(_RECORD_ATTEMPT, call)

    async def release(self, delivery_id: str, *, claim: str, now: datetime) -> bool:
        """Release a claimed delivery without an attempt."""
        call = ReleaseCall(delivery_id=delivery_id, claim=claim, now=now)
        return await self._writer.execute(_RELEASE, call)

    async def release_all(self, *, now: datetime, suspect_after: int) -> RecoveredClaims:
        """Make every claimed delivery due now, and find the suspects."""
        call = ReleaseAllCall(now=now, suspect_after=suspect_after)
        return await self._writer.execute(_RELEASE_ALL, call)

    async def retry_now(self, route: str, *, now: datetime) -> int:
        """Make every attempted, pending, unclaimed delivery of *route* due."""
        return await self._writer.execute(_RETRY_NOW, RetryNowCall(route=route, now=now))

    async def bring_forward(self, route: str, *, now: datetime, archive_wait_until: datetime, limit: int) -> int:
        """Make deliveries with a later due time due, after the clock was set back."""
        call = BringForwardCall(route=route, now=now, archive_wait_until=archive_wait_until, limit=limit)
        return await self._writer.execute(_BRING_FORWARD, call)

    async def route_states(self) -> Mapping[str, RouteState]:
        """Return the stored state of each route."""
        return await self._hot.read(catalog.route_states)

    async def save_route(
        self, state: RouteState, *, alert: RoutedEvent | None = None, action: AuditEntry | None = None
    ) -> None:
        """Store a route's state, its alert and the audit entry of the change."""
        call = SaveRouteCall(state=state, alert=alert, action=action)
        await self._writer.execute(_SAVE_ROUTE, call)


def _claim(connection: sqlite3.Connection, group: Sequence[ClaimCall]) -> Sequence[Sequence[ClaimedDelivery]]:
    # In sequence, because each call must see the claims of the previous ones.
    return [_claim_one(connection, call) for call in group]


def _claim_one(connection: sqlite3.Connection, call: ClaimCall) -> Sequence[ClaimedDelivery]:
    arguments = {
        "route": call.route,
        "limit": call.limit,
        "early" if call.early else "now": micros(call.now),
        "only": call.only,
        "skip": json.dumps(list(call.skip)) if call.skip else None,
    }
    found = connection.execute(queries()["due_deliveries"].with_optional(arguments), arguments).fetchall()
    if found:
        statement, ids = with_list("claim_deliveries", [row[0] for row in found])
        connection.execute(statement, (call.claim, micros(call.until), *ids))
    return [delivery_rows.claimed_delivery(row, claim=call.claim, until=call.until) for row in found]


def _claim_routes(connection: sqlite3.Connection, group: Sequence[ClaimRoutesCall]) -> Sequence[ClaimedRoutes]:
    return [_claim_routes_once(connection, call) for call in group]


def _claim_routes_once(connection: sqlite3.Connection, call: ClaimRoutesCall) -> ClaimedRoutes:
    claimed = {
        each.route: _claim_one(
            connection,
            ClaimCall(
                route=each.route, now=call.now, until=each.until, limit=each.limit, claim=each.claim, skip=call.skip
            ),
        )
        for each in call.wanted
    }
    return ClaimedRoutes(claimed=claimed, due_routes=catalog.due_routes(connection))


def _record_attempts(connection: sqlite3.Connection, group: Sequence[RecordAttemptCall]) -> Sequence[bool]:
    if len({call.attempt.delivery_id for call in group}) < len(group):
        # One by one, because the first verdict on a delivery ends its claim, so that the second is refused.
        return [result for call in group for result in _record_attempts(connection, [call])]
    recorded = {row[0] for row in write_rows(connection, "record_verdict", map(verdict_row, group))}
    results = [call.attempt.delivery_id in recorded for call in group]
    valid = [call for call, is_valid in zip(group, results, strict=True) if is_valid]
    write_rows(connection, "insert_attempt", [delivery_rows.attempt_row(call.attempt) for call in valid])
    old = [(call.attempt.delivery_id, call.attempt.number - MAX_ATTEMPTS_RETAINED) for call in valid]
    if too_many := [(delivery, number) for delivery, number in old if number > 0]:
        connection.executemany(sql("delete_oldest_attempts"), too_many)
    if routes := [delivery_rows.route_state_row(call.route) for call in valid if call.route is not None]:
        connection.executemany(sql("save_route"), routes)
    _write_alerts(connection, [alert for call in valid for alert in call.alerts])
    return results


def _write_alerts(connection: sqlite3.Connection, raised: Sequence[RoutedEvent]) -> None:
    if raised:
        deliveries = [delivery for alert in raised for delivery in alert.deliveries]
        write_events(connection, [alert.event for alert in raised], deliveries)


def _claims(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Return the claims of those deliveries that are claimed, by delivery id."""
    return {row["id"]: row["claim"] for row in connection.execute(sql("delivery_claims"), {"ids": rows.to_json(ids)})}


def _release(connection: sqlite3.Connection, group: Sequence[ReleaseCall]) -> Sequence[bool]:
    claims = _claims(connection, [call.delivery_id for call in group])
    results = [drop_claim(claims, call.delivery_id, call.claim) for call in group]
    valid = [call for call, is_valid in zip(group, results, strict=True) if is_valid]
    released = [(micros(call.now), call.delivery_id, call.claim) for call in valid]
    connection.executemany(sql("release_delivery"), released)
    return results


def _release_all(connection: sqlite3.Connection, group: Sequence[ReleaseAllCall]) -> Sequence[RecoveredClaims]:
    return [_release_all_once(connection, call) for call in group]


def _release_all_once(connection: sqlite3.Connection, call: ReleaseAllCall) -> RecoveredClaims:
    claimed = connection.execute(sql("count_claimed_deliveries")).fetchone()[0]
    arguments = {"now": micros(call.now), "alone": claimed == 1, "limit_together": call.suspect_after}
    released = connection.execute(sql("release_all_deliveries"), arguments).rowcount
    suspects = connection.execute(sql("suspect_deliveries"), {"at_least": call.suspect_after})
    return RecoveredClaims(released=released, suspects={row["id"]: row["route"] for row in suspects})


def _retry_now(connection: sqlite3.Connection, group: Sequence[RetryNowCall]) -> Sequence[int]:
    arguments = [{"route": call.route, "now": micros(call.now)} for call in group]
    return [connection.execute(sql("retry_route_now"), each).rowcount for each in arguments]


def _bring_forward(connection: sqlite3.Connection, group: Sequence[BringForwardCall]) -> Sequence[int]:
    arguments = [
        {
            "route": call.route,
            "now": micros(call.now),
            "archive_wait_until": micros(call.archive_wait_until),
            "limit": call.limit,
        }
        for call in group
    ]
    return [connection.execute(sql("bring_forward"), each).rowcount for each in arguments]


def _save_routes(connection: sqlite3.Connection, group: Sequence[SaveRouteCall]) -> Sequence[None]:
    connection.executemany(sql("save_route"), [delivery_rows.route_state_row(call.state) for call in group])
    actions = [rows.action_row(call.action) for call in group if call.action is not None]
    connection.executemany(sql("insert_action"), actions)
    _write_alerts(connection, [call.alert for call in group if call.alert is not None])
    return [None] * len(group)


# These writes drain the queue, which frees disk space. So they are never refused for lack of it.
# A claim that a power cut undoes was to be released at the next start anyway, so nothing waits for the disk.
_CLAIM: WriteOp[ClaimCall, Sequence[ClaimedDelivery]] = WriteOp(
    write=_claim, uses_disk=False, is_durable=False, size=bodiless
)
_CLAIM_ROUTES: WriteOp[ClaimRoutesCall, ClaimedRoutes] = WriteOp(
    write=_claim_routes, uses_disk=False, is_durable=False, size=bodiless
)
_RECORD_ATTEMPT: WriteOp[RecordAttemptCall, bool] = WriteOp(
    write=_record_attempts, uses_disk=False, size=lambda group: sum(len(call.attempt.excerpt) for call in group)
)
_RELEASE: WriteOp[ReleaseCall, bool] = WriteOp(write=_release, uses_disk=False, size=bodiless)
_RELEASE_ALL: WriteOp[ReleaseAllCall, RecoveredClaims] = WriteOp(write=_release_all, uses_disk=False)
_RETRY_NOW: WriteOp[RetryNowCall, int] = WriteOp(write=_retry_now, uses_disk=False)
_BRING_FORWARD: WriteOp[BringForwardCall, int] = WriteOp(write=_bring_forward, uses_disk=False)
_SAVE_ROUTE: WriteOp[SaveRouteCall, None] = WriteOp(write=_save_routes, uses_disk=False)
