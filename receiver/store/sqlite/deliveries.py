"""What is written about deliveries, for a whole group of callers at once: claims, verdicts, releases, routes."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from receiver.domain.clock import micros
from receiver.domain.model import Attempt, RouteState, Verdict
from receiver.domain.replays import Action
from receiver.events.factory import Announcement
from receiver.store.interfaces import Claimed
from receiver.store.sqlite import rows
from receiver.store.sqlite.queries import queries, sql, write_rows
from receiver.store.sqlite.tasks import write_events
from receiver.store.sqlite.writer import Work

ATTEMPTS_KEPT = 200
"""How many of a delivery's attempts are kept, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One call of ``claim``."""

    route: str
    now: datetime
    until: datetime
    limit: int
    claim: str
    early: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """One call of ``finish``."""

    attempt: Attempt
    verdict: Verdict
    claim: str
    route: RouteState | None
    alert: Announcement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One call of ``release``."""

    delivery_id: str
    claim: str
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hasten:
    """One call of ``hasten``."""

    route: str
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """One call of ``bring_forward``."""

    route: str
    now: datetime
    held_until: datetime
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRoute:
    """One call of ``save_route``."""

    state: RouteState
    alert: Announcement | None
    action: Action | None


def _claim(connection: sqlite3.Connection, group: Sequence[Claim]) -> Sequence[Sequence[Claimed]]:
    # One after the other: each must see what the one before it took.
    return [_claim_one(connection, claim) for claim in group]


def _claim_one(connection: sqlite3.Connection, claim: Claim) -> Sequence[Claimed]:
    moment = {"early" if claim.early else "now": micros(claim.now)}
    wanted = {"route": claim.route, "limit": claim.limit, **moment}
    found = list(rows.named(connection.execute(queries()["due_deliveries"].given(wanted), wanted)))
    if found:
        ids = json.dumps([row["id"] for row in found])
        taken = {"claim": claim.claim, "until": micros(claim.until), "ids": ids}
        connection.execute(sql("claim_deliveries"), taken)
    return [_claimed(row, claim) for row in found]


def _claimed(row: dict[str, Any], claim: Claim) -> Claimed:
    taken = {"claim": claim.claim, "due_at": micros(claim.until), "unfinished": row["unfinished"] + 1}
    ours = rows.delivery({**row, **taken})
    return Claimed(delivery=ours, event=rows.event_of_delivery(row), reply_to=row["reply_to"])


def _finish(connection: sqlite3.Connection, group: Sequence[Finish]) -> Sequence[bool]:
    held = _claims(connection, [finish.attempt.delivery_id for finish in group])
    # Popped, so that a second verdict on the same delivery finds the claim gone.
    results = [_give_up(held, finish.attempt.delivery_id, finish.claim) for finish in group]
    ours = [finish for finish, is_ours in zip(group, results, strict=True) if is_ours]
    write_rows(connection, "finish_delivery", map(_verdict_row, ours))
    write_rows(connection, "insert_attempt", [rows.attempt_row(finish.attempt) for finish in ours])
    old = [(finish.attempt.delivery_id, finish.attempt.number - ATTEMPTS_KEPT) for finish in ours]
    connection.executemany(sql("forget_attempts"), [(delivery, number) for delivery, number in old if number > 0])
    routes = [rows.route_state_row(finish.route) for finish in ours if finish.route is not None]
    connection.executemany(sql("save_route"), routes)
    _write_alerts(connection, [finish.alert for finish in ours])
    return results


def _write_alerts(connection: sqlite3.Connection, alerts: Iterable[Announcement | None]) -> None:
    said = [alert for alert in alerts if alert is not None]
    if said:
        write_events(connection, [alert.event for alert in said], [each for alert in said for each in alert.deliveries])


def _claims(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, str]:
    """Tell under whose claim deliveries are, as far as they are under any."""
    return {row["id"]: row["claim"] for row in connection.execute(sql("claims"), {"ids": json.dumps(ids)})}


def _give_up(held: dict[str, str], delivery_id: str, claim: str) -> bool:
    if held.get(delivery_id) != claim:
        return False
    del held[delivery_id]
    return True


def _verdict_row(finish: Finish) -> rows.Values:
    verdict, attempt = finish.verdict, finish.attempt
    finished_at = None if verdict.finished_at is None else micros(verdict.finished_at)
    due_at = micros(verdict.due_at)
    return (
        attempt.delivery_id,
        finish.claim,
        verdict.status.value,
        due_at,
        finished_at,
        attempt.number,
        int(verdict.probe),
    )


def _release(connection: sqlite3.Connection, group: Sequence[Release]) -> Sequence[bool]:
    held = _claims(connection, [release.delivery_id for release in group])
    results = [_give_up(held, release.delivery_id, release.claim) for release in group]
    ours = [release for release, is_ours in zip(group, results, strict=True) if is_ours]
    found = [(micros(release.now), release.delivery_id, release.claim) for release in ours]
    connection.executemany(sql("release_delivery"), found)
    return results


def _release_all(connection: sqlite3.Connection, group: Sequence[datetime]) -> Sequence[int]:
    return [connection.execute(sql("release_all"), {"now": micros(now)}).rowcount for now in group]


def _hasten(connection: sqlite3.Connection, group: Sequence[Hasten]) -> Sequence[int]:
    wanted = [{"route": hasten.route, "now": micros(hasten.now)} for hasten in group]
    return [connection.execute(sql("hasten"), one).rowcount for one in wanted]


def _bring_forward(connection: sqlite3.Connection, group: Sequence[Ahead]) -> Sequence[int]:
    wanted = [
        {"route": each.route, "now": micros(each.now), "held_until": micros(each.held_until), "limit": each.limit}
        for each in group
    ]
    return [connection.execute(sql("bring_forward"), one).rowcount for one in wanted]


def _save_routes(connection: sqlite3.Connection, group: Sequence[SaveRoute]) -> Sequence[None]:
    connection.executemany(sql("save_route"), [rows.route_state_row(save.state) for save in group])
    actions = [rows.action_row(save.action) for save in group if save.action is not None]
    connection.executemany(sql("insert_action"), actions)
    _write_alerts(connection, [save.alert for save in group])
    return [None] * len(group)


# What drains the queue is let through to the last byte: it is how room is made again.
CLAIM: Work[Claim, Sequence[Claimed]] = Work(write=_claim, grows=False)
FINISH: Work[Finish, bool] = Work(write=_finish, grows=False)
RELEASE: Work[Release, bool] = Work(write=_release, grows=False)
RELEASE_ALL: Work[datetime, int] = Work(write=_release_all, grows=False)
HASTEN: Work[Hasten, int] = Work(write=_hasten, grows=False)
BRING_FORWARD: Work[Ahead, int] = Work(write=_bring_forward, grows=False)
SAVE_ROUTE: Work[SaveRoute, None] = Work(write=_save_routes, grows=False)
