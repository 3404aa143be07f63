"""Deliveries in a PostgreSQL store: claims, attempts, releases, and the states of routes.

Each write is one function for a whole group of callers. A claim skips the rows that another node is claiming.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Unpack

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import from_micros, micros
from receiver.domain.model import Attempt, DeliveryStatus, RouteState, Verdict
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
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import (
    Statement,
    change,
    fetch,
    fetch_value,
    write_each,
    write_returning,
    write_rows,
    write_together,
)
from receiver.store.postgres.task_changes import write_events
from receiver.store.postgres.writer import WriteOp, Writer


class PostgresDeliveryQueue:
    """The queue of deliveries and the states of routes, in a PostgreSQL database."""

    def __init__(self, writer: Writer, hot: Reader) -> None:
        self._writer = writer
        self._hot = hot

    async def due_routes(self) -> Mapping[str, datetime]:
        """Return when each route's next delivery is due."""
        return await self._hot.read(_due_routes)

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
        found = await self._hot.read(fetch, "route_states")
        return {row["name"]: delivery_rows.route_state(row) for row in found}

    async def save_route(
        self, state: RouteState, *, alert: RoutedEvent | None = None, action: AuditEntry | None = None
    ) -> None:
        """Store a route's state, its alert and the audit entry of the change."""
        call = SaveRouteCall(state=state, alert=alert, action=action)
        await self._writer.execute(_SAVE_ROUTE, call)


async def _due_routes(connection: Connection) -> Mapping[str, datetime]:
    return {row["route"]: from_micros(row["due_at"]) for row in await fetch(connection, "due_routes")}


async def _claim(connection: Connection, group: Sequence[ClaimCall]) -> Sequence[Sequence[ClaimedDelivery]]:
    # In sequence, because each call must see the claims of the previous ones.
    return [await _claim_one(connection, call) for call in group]


async def _claim_alone(
    connection: Connection, group: Sequence[ClaimCall]
) -> Sequence[Sequence[ClaimedDelivery]] | None:
    return [await _claim_one(connection, group[0], alone=True)] if len(group) == 1 else None


async def _claim_one(connection: Connection, call: ClaimCall, *, alone: bool = False) -> Sequence[ClaimedDelivery]:
    arguments = {
        "route": call.route,
        "limit": call.limit,
        "early" if call.early else "now": micros(call.now),
        "only": call.only,
        "skip": list(call.skip) or None,
        "claim": call.claim,
        "until": micros(call.until),
        "alone": alone or None,
    }
    found = await fetch(connection, "claim_deliveries", arguments)
    return [delivery_rows.claimed_delivery(row, claim=call.claim, until=call.until) for row in found]


async def _claim_routes(connection: Connection, group: Sequence[ClaimRoutesCall]) -> Sequence[ClaimedRoutes]:
    return [await _claim_routes_once(connection, call) for call in group]


async def _claim_routes_alone(
    connection: Connection, group: Sequence[ClaimRoutesCall]
) -> Sequence[ClaimedRoutes] | None:
    if len(group) != 1 or len(group[0].wanted) != 1:
        return None
    return [await _claim_routes_once(connection, group[0], alone=True)]


async def _claim_routes_once(connection: Connection, call: ClaimRoutesCall, *, alone: bool = False) -> ClaimedRoutes:
    claimed = {
        each.route: await _claim_one(
            connection,
            ClaimCall(
                route=each.route, now=call.now, until=each.until, limit=each.limit, claim=each.claim, skip=call.skip
            ),
            alone=alone,
        )
        for each in call.wanted
    }
    return ClaimedRoutes(claimed=claimed, due_routes=await _due_routes(connection))


async def _record_attempts(connection: Connection, group: Sequence[RecordAttemptCall]) -> Sequence[bool]:
    claims, routes = await _lock_claims(connection, [call.attempt.delivery_id for call in group])
    # Each claim is dropped once, so a second verdict on the same delivery is refused.
    results = [drop_claim(claims, call.attempt.delivery_id, call.claim) for call in group]
    valid = [call for call, is_valid in zip(group, results, strict=True) if is_valid]
    await _save_verdicts(connection, valid, routes)
    old = [(call.attempt.delivery_id, call.attempt.number - MAX_ATTEMPTS_RETAINED) for call in valid]
    await write_each(
        connection, "delete_oldest_attempts", [(delivery, number) for delivery, number in old if number > 0]
    )
    await _save_states(connection, [call.route for call in valid if call.route is not None])
    await _write_alerts(connection, [alert for call in valid for alert in call.alerts])
    return results


async def _record_attempts_alone(connection: Connection, group: Sequence[RecordAttemptCall]) -> Sequence[bool] | None:
    """Record attempts of different deliveries that neither kill any nor change a route.

    A repetition records nothing twice: the first one has dropped the claims.
    """
    calls = {call.attempt.delivery_id: call for call in group}
    if len(calls) != len(group) or any(
        call.route is not None
        or call.alerts
        or call.verdict.status is DeliveryStatus.DEAD
        or call.attempt.number > MAX_ATTEMPTS_RETAINED
        for call in group
    ):
        return None
    ordered = [call for _, call in sorted(calls.items())]  # their locks are taken in one order on all nodes
    records = [(*verdict_row(call), *delivery_rows.attempt_row(call.attempt)[2:]) for call in ordered]
    recorded = {row["id"] for row in await write_returning(connection, "record_attempts", records)}
    return [call.attempt.delivery_id in recorded for call in group]


async def _save_verdicts(connection: Connection, calls: Sequence[RecordAttemptCall], routes: Mapping[str, str]) -> None:
    """Store attempts and verdicts. Deaths also raise the total of their route, in one order on all nodes."""
    deaths: dict[str, list[RecordAttemptCall]] = {}
    for call in calls:
        if call.verdict.status is DeliveryStatus.DEAD:
            route = routes[call.attempt.delivery_id]
            deaths.setdefault("reply" if route.startswith("reply:") else route, []).append(call)  # as it is counted
    for _, dead in sorted(deaths.items()):
        await write_rows(connection, "record_verdict", map(verdict_row, dead))
    others = [call for call in calls if call.verdict.status is not DeliveryStatus.DEAD]
    await write_together(
        connection,
        (Statement("record_verdict"), map(verdict_row, others)),
        (Statement("insert_attempt"), [delivery_rows.attempt_row(call.attempt) for call in calls]),
    )


async def _save_states(connection: Connection, states: Sequence[RouteState]) -> None:
    """Store the states of routes, the last one of each, in one order on all nodes."""
    last = {state.name: state for state in states}
    found = [delivery_rows.route_state_row(state) for _, state in sorted(last.items())]
    await write_each(connection, "save_route", found)


async def _write_alerts(connection: Connection, raised: Sequence[RoutedEvent]) -> None:
    deliveries = [delivery for alert in raised for delivery in alert.deliveries]
    await write_events(connection, [alert.event for alert in raised], deliveries)


async def _lock_claims(connection: Connection, ids: Sequence[str]) -> tuple[dict[str, str], Mapping[str, str]]:
    """Lock some deliveries; return the claims and the routes of those that are claimed, by delivery id."""
    found = [row for row in await fetch(connection, "lock_claims", {"ids": ids}) if row["claim"] is not None]
    return {row["id"]: row["claim"] for row in found}, {row["id"]: row["route"] for row in found}


async def _release(connection: Connection, group: Sequence[ReleaseCall]) -> Sequence[bool]:
    claims, _ = await _lock_claims(connection, [call.delivery_id for call in group])
    results = [drop_claim(claims, call.delivery_id, call.claim) for call in group]
    valid = [call for call, is_valid in zip(group, results, strict=True) if is_valid]
    released = [(micros(call.now), call.delivery_id, call.claim) for call in valid]
    await write_rows(connection, "release_delivery", released)
    return results


async def _release_all(connection: Connection, group: Sequence[ReleaseAllCall]) -> Sequence[RecoveredClaims]:
    return [await _release_all_once(connection, call) for call in group]


async def _release_all_once(connection: Connection, call: ReleaseAllCall) -> RecoveredClaims:
    claimed = await fetch_value(connection, "count_claimed_deliveries")
    arguments = {"now": micros(call.now), "alone": claimed == 1, "limit_together": call.suspect_after}
    released = await change(connection, "release_all_deliveries", arguments)
    suspects = await fetch(connection, "suspect_deliveries", {"at_least": call.suspect_after})
    return RecoveredClaims(released=released, suspects={row["id"]: row["route"] for row in suspects})


async def _retry_now(connection: Connection, group: Sequence[RetryNowCall]) -> Sequence[int]:
    return [
        await change(connection, "retry_route_now", {"route": call.route, "now": micros(call.now)}) for call in group
    ]


async def _bring_forward(connection: Connection, group: Sequence[BringForwardCall]) -> Sequence[int]:
    return [
        await change(
            connection,
            "bring_forward",
            {
                "route": call.route,
                "now": micros(call.now),
                "archive_wait_until": micros(call.archive_wait_until),
                "limit": call.limit,
            },
        )
        for call in group
    ]


async def _save_routes(connection: Connection, group: Sequence[SaveRouteCall]) -> Sequence[None]:
    await _save_states(connection, [call.state for call in group])
    actions = [rows.action_row(call.action) for call in group if call.action is not None]
    await write_rows(connection, "insert_action", actions)
    await _write_alerts(connection, [call.alert for call in group if call.alert is not None])
    return [None] * len(group)


# A claim that a crash of the server undoes is made again, so nothing waits for the disk.
_CLAIM: WriteOp[ClaimCall, Sequence[ClaimedDelivery]] = WriteOp(
    write=_claim, is_durable=False, groups=True, mixes=True, skips_locked=True, write_alone=_claim_alone
)
_CLAIM_ROUTES: WriteOp[ClaimRoutesCall, ClaimedRoutes] = WriteOp(
    write=_claim_routes, is_durable=False, groups=True, mixes=True, skips_locked=True, write_alone=_claim_routes_alone
)
_RECORD_ATTEMPT: WriteOp[RecordAttemptCall, bool] = WriteOp(
    write=_record_attempts, groups=True, mixes=True, write_alone=_record_attempts_alone
)
_RELEASE: WriteOp[ReleaseCall, bool] = WriteOp(write=_release, groups=True)
_RELEASE_ALL: WriteOp[ReleaseAllCall, RecoveredClaims] = WriteOp(write=_release_all)
_RETRY_NOW: WriteOp[RetryNowCall, int] = WriteOp(write=_retry_now)
_BRING_FORWARD: WriteOp[BringForwardCall, int] = WriteOp(write=_bring_forward)
_SAVE_ROUTE: WriteOp[SaveRouteCall, None] = WriteOp(write=_save_routes, groups=True)
