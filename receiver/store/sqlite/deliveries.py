"""What is written about deliveries, for a whole group of callers at once: claims, verdicts, releases, routes."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import micros
from receiver.domain.model import Attempt, RouteState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import ClaimedDelivery
from receiver.store.sqlite import rows
from receiver.store.sqlite.queries import queries, sql, write_rows
from receiver.store.sqlite.tasks import write_events
from receiver.store.sqlite.writer import WriteOp

MAX_ATTEMPTS_RETAINED = 200
"""How many of a delivery's attempts are kept, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCall:
    """One call of ``claim``."""

    route: str
    now: datetime
    until: datetime
    limit: int
    claim: str
    early: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordAttemptCall:
    """One call of ``finish``."""

    attempt: Attempt
    verdict: Verdict
    claim: str
    route: RouteState | None
    alert: RoutedEvent | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseCall:
    """One call of ``release``."""

    delivery_id: str
    claim: str
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryNowCall:
    """One call of ``hasten``."""

    route: str
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BringForwardCall:
    """One call of ``bring_forward``."""

    route: str
    now: datetime
    archive_wait_until: datetime
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRouteCall:
    """One call of ``save_route``."""

    state: RouteState
    alert: RoutedEvent | None
    action: AuditEntry | None


def _claim(connection: sqlite3.Connection, group: Sequence[ClaimCall]) -> Sequence[Sequence[ClaimedDelivery]]:
    # One after the other: each must see what the one before it took.
    return [_claim_one(connection, claim) for claim in group]


def _claim_one(connection: sqlite3.Connection, call: ClaimCall) -> Sequence[ClaimedDelivery]:
    moment = {"early" if call.early else "now": micros(call.now)}
    wanted = {"route": call.route, "limit": call.limit, **moment}
    found = list(rows.as_dicts(connection.execute(queries()["due_deliveries"].with_optional(wanted), wanted)))
    if found:
        ids = json.dumps([row["id"] for row in found])
        taken = {"claim": call.claim, "until": micros(call.until), "ids": ids}
        connection.execute(sql("claim_deliveries"), taken)
    return [_claimed(row, call) for row in found]


def _claimed(row: dict[str, Any], call: ClaimCall) -> ClaimedDelivery:
    taken = {"claim": call.claim, "due_at": micros(call.until), "unfinished_claims": row["unfinished_claims"] + 1}
    ours = rows.delivery({**row, **taken})
    return ClaimedDelivery(delivery=ours, event=rows.event_of_delivery(row), reply_to=row["reply_to"])


def _record_attempts(connection: sqlite3.Connection, group: Sequence[RecordAttemptCall]) -> Sequence[bool]:
    held = _claims(connection, [finish.attempt.delivery_id for finish in group])
    # Popped, so that a second verdict on the same delivery finds the claim gone.
    results = [_drop_claim(held, finish.attempt.delivery_id, finish.claim) for finish in group]
    ours = [finish for finish, is_ours in zip(group, results, strict=True) if is_ours]
    write_rows(connection, "record_verdict", map(_verdict_row, ours))
    write_rows(connection, "insert_attempt", [rows.attempt_row(finish.attempt) for finish in ours])
    old = [(finish.attempt.delivery_id, finish.attempt.number - MAX_ATTEMPTS_RETAINED) for finish in ours]
    connection.executemany(
        sql("delete_oldest_attempts"), [(delivery, number) for delivery, number in old if number > 0]
    )
    routes = [rows.route_state_row(finish.route) for finish in ours if finish.route is not None]
    connection.executemany(sql("save_route"), routes)
    _write_alerts(connection, [finish.alert for finish in ours])
    return results


def _write_alerts(connection: sqlite3.Connection, alerts: Iterable[RoutedEvent | None]) -> None:
    said = [alert for alert in alerts if alert is not None]
    if said:
        write_events(connection, [alert.event for alert in said], [each for alert in said for each in alert.deliveries])


def _claims(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Tell under whose claim deliveries are, as far as they are under any."""
    return {row["id"]: row["claim"] for row in connection.execute(sql("delivery_claims"), {"ids": json.dumps(ids)})}


def _drop_claim(claims: dict[str, str], delivery_id: str, claim: str) -> bool:
    if claims.get(delivery_id) != claim:
        return False
    del claims[delivery_id]
    return True


def _verdict_row(call: RecordAttemptCall) -> rows.Values:
    verdict, attempt = call.verdict, call.attempt
    finished_at = None if verdict.finished_at is None else micros(verdict.finished_at)
    due_at = micros(verdict.due_at)
    return (
        attempt.delivery_id,
        call.claim,
        verdict.status.value,
        due_at,
        finished_at,
        attempt.number,
        int(verdict.probe),
    )


def _release(connection: sqlite3.Connection, group: Sequence[ReleaseCall]) -> Sequence[bool]:
    held = _claims(connection, [release.delivery_id for release in group])
    results = [_drop_claim(held, release.delivery_id, release.claim) for release in group]
    ours = [release for release, is_ours in zip(group, results, strict=True) if is_ours]
    found = [(micros(release.now), release.delivery_id, release.claim) for release in ours]
    connection.executemany(sql("release_delivery"), found)
    return results


def _release_all(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    return [connection.execute(sql("release_all_deliveries"), {"now": micros(now)}).rowcount for now in group]


def _retry_now(connection: sqlite3.Connection, group: Sequence[RetryNowCall]) -> Sequence[int]:
    wanted = [{"route": hasten.route, "now": micros(hasten.now)} for hasten in group]
    return [connection.execute(sql("retry_route_now"), one).rowcount for one in wanted]


def _bring_forward(connection: sqlite3.Connection, group: Sequence[BringForwardCall]) -> Sequence[int]:
    wanted = [
        {
            "route": each.route,
            "now": micros(each.now),
            "archive_wait_until": micros(each.archive_wait_until),
            "limit": each.limit,
        }
        for each in group
    ]
    return [connection.execute(sql("bring_forward"), one).rowcount for one in wanted]


def _save_routes(connection: sqlite3.Connection, group: Sequence[SaveRouteCall]) -> Sequence[None]:
    connection.executemany(sql("save_route"), [rows.route_state_row(save.state) for save in group])
    actions = [rows.action_row(save.action) for save in group if save.action is not None]
    connection.executemany(sql("insert_action"), actions)
    _write_alerts(connection, [save.alert for save in group])
    return [None] * len(group)


# What drains the queue is let through to the last byte: it is how room is made again.
CLAIM: WriteOp[ClaimCall, Sequence[ClaimedDelivery]] = WriteOp(write=_claim, uses_disk=False)
RECORD_ATTEMPT: WriteOp[RecordAttemptCall, bool] = WriteOp(write=_record_attempts, uses_disk=False)
RELEASE: WriteOp[ReleaseCall, bool] = WriteOp(write=_release, uses_disk=False)
RELEASE_ALL: WriteOp[datetime, int] = WriteOp(write=_release_all, uses_disk=False)
RETRY_NOW: WriteOp[RetryNowCall, int] = WriteOp(write=_retry_now, uses_disk=False)
BRING_FORWARD: WriteOp[BringForwardCall, int] = WriteOp(write=_bring_forward, uses_disk=False)
SAVE_ROUTE: WriteOp[SaveRouteCall, None] = WriteOp(write=_save_routes, uses_disk=False)
