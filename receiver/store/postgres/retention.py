"""Deletes old data, one page per transaction, so that other writes never wait for long.

Autovacuum makes the space of deleted rows free for new ones. The tables keep their largest size on the disk.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

from receiver.store.calls import SweepCall
from receiver.store.interfaces import RetentionTarget, SweepResult
from receiver.store.postgres.database import Connection
from receiver.store.postgres.queries import change, fetch, fetch_row, fetch_value
from receiver.store.postgres.writer import WriteOp, Writer
from receiver.store.retention_pages import MAX_BYTES, MAX_ROWS, choose_rows


class PostgresRetentionStore:
    """Deletes old data."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        """Delete one page of data older than *before*."""
        call = SweepCall(target=target, before=before, now=now, after=after)
        return await self._writer.execute(_SWEEP, call)

    async def truncate_wal(self) -> None:
        """Do nothing: PostgreSQL recycles its write-ahead log by itself."""


async def _sweep(connection: Connection, group: Sequence[SweepCall]) -> Sequence[SweepResult]:
    await fetch(connection, "lock_retention")
    return [await _SWEEPERS[call.target](connection, call) for call in group]


async def _bodies(connection: Connection, call: SweepCall) -> SweepResult:
    page = await fetch(connection, "old_push_bodies", call.arguments)
    weights = accumulate(row["weight"] for row in page)
    chosen = page[: max(1, sum(weight <= MAX_BYTES for weight in weights))]
    ids = {"task_ids": [row["task_id"] for row in chosen], "ids": [row["id"] for row in chosen]}
    count = await change(connection, "clear_push_bodies", ids)
    return SweepResult(deleted={"bodies": count}, next="" if count else None)


async def _intents(connection: Connection, call: SweepCall) -> SweepResult:
    page = await fetch(connection, "old_intents", call.arguments)
    ids, last = choose_rows(page, after=call.after, max_weight=MAX_BYTES)
    return SweepResult(deleted={"intents": await change(connection, "delete_intents", {"ids": ids})}, next=last)


async def _events(connection: Connection, call: SweepCall) -> SweepResult:
    ids, last = await _hold(connection, "old_events", "hold_events", call)
    await fetch(connection, "hold_deliveries", {"events": ids})
    counts = await fetch_row(connection, "count_deliveries", {"ids": ids})
    assert counts is not None  # noqa: S101 -- a count has one row
    deleted = {"events": await change(connection, "delete_events", {"ids": ids}), **counts}
    return SweepResult(deleted=deleted, next=last)


async def _tasks(connection: Connection, call: SweepCall) -> SweepResult:
    ids, last = await _hold(connection, "old_tasks", "hold_tasks", call)
    pushes = await fetch_value(connection, "count_pushes", {"ids": ids})
    return SweepResult(
        deleted={"tasks": await change(connection, "delete_tasks", {"ids": ids}), "pushes": pushes}, next=last
    )


async def _hold(connection: Connection, name: str, hold: str, call: SweepCall) -> tuple[Sequence[str], str | None]:
    """Select the deletable rows of one page and hold them. Return their ids, and the row before the next page, or None.

    Another node may have added to a row meanwhile, so each is looked at again once it is held. A row that another node
    holds is skipped.
    """
    page = await fetch(connection, name, call.arguments)
    ids, last = choose_rows(page, after=call.after, max_weight=MAX_ROWS)
    if not ids:
        return ids, last
    held = [row["id"] for row in await fetch(connection, hold, {"ids": ids})]
    found = await fetch(connection, name, {**call.arguments, "ids": held})
    return [row["id"] for row in found if row["is_old"] and row["is_free"]], last


async def _batches(connection: Connection, call: SweepCall) -> SweepResult:
    names = [row["name"] for row in await fetch(connection, "hold_old_batches", call.arguments)]
    count = await change(connection, "delete_batches", {"names": names})
    return SweepResult(deleted={"batches": count}, next="" if count else None)


async def _alerts(connection: Connection, call: SweepCall) -> SweepResult:
    await fetch(connection, "lock_event_order")  # under it, alerts are locked in any order
    return await _by_age("alerts", "delete_alerts")(connection, call)


async def _sessions(connection: Connection, call: SweepCall) -> SweepResult:
    await fetch(connection, "lock_sessions")
    return await _by_age("sessions", "delete_expired_sessions", "delete_expired_links")(connection, call)


def _by_age(kind: str, *statements: str) -> Callable[[Connection, SweepCall], Awaitable[SweepResult]]:
    """Return a step that runs *statements*, each of which deletes a limited number of old rows of one kind."""

    async def sweep(connection: Connection, call: SweepCall) -> SweepResult:
        count = 0
        for statement in statements:
            count += await change(connection, statement, call.arguments)
        return SweepResult(deleted={kind: count}, next="" if count else None)

    return sweep


_SWEEPERS: Mapping[RetentionTarget, Callable[[Connection, SweepCall], Awaitable[SweepResult]]] = {
    RetentionTarget.BODIES: _bodies,
    RetentionTarget.INTENTS: _intents,
    RetentionTarget.EVENTS: _events,
    RetentionTarget.TASKS: _tasks,
    RetentionTarget.BATCHES: _batches,
    RetentionTarget.ACTIONS: _by_age("actions", "delete_actions", "delete_kept_costs"),
    RetentionTarget.REPLAYS: _by_age("replays", "delete_replays"),
    RetentionTarget.ALERTS: _alerts,
    RetentionTarget.SESSIONS: _sessions,
}

_SWEEP: WriteOp[SweepCall, SweepResult] = WriteOp(write=_sweep)
