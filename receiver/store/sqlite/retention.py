"""Deletes old data, one page per transaction, so that other writes never wait for long.

The file does not shrink. SQLite reuses the freed pages before it grows the file, so the file keeps its largest size.
Returning pages to the disk would slow down every write.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from receiver.store.calls import SweepCall
from receiver.store.interfaces import RetentionTarget, SweepResult
from receiver.store.retention_pages import MAX_BYTES, MAX_ROWS, choose_rows
from receiver.store.sqlite import checkpoint
from receiver.store.sqlite.database import Health
from receiver.store.sqlite.queries import sql
from receiver.store.sqlite.writer import WriteOp, Writer


class SqliteRetentionStore:
    """Deletes old data from the store's file."""

    def __init__(self, writer: Writer, health: Health) -> None:
        self._writer = writer
        self._health = health

    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        """Delete one page of data older than *before*."""
        call = SweepCall(target=target, before=before, now=now, after=after)
        return await self._writer.execute(_SWEEP, call)

    async def truncate_wal(self) -> None:
        """Checkpoint the file and truncate its log."""
        await self._health.guard(self._writer.run_exclusive(checkpoint.truncate_wal))


def _sweep(connection: sqlite3.Connection, group: Sequence[SweepCall]) -> Sequence[SweepResult]:
    return [_SWEEPERS[call.target](connection, call) for call in group]


def _bodies(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    ids, _ = _select(connection, "old_push_bodies", call, max_weight=MAX_BYTES)
    count = connection.execute(sql("clear_push_bodies"), {"ids": ids}).rowcount
    return SweepResult(deleted={"bodies": count}, next="" if count else None)


def _intents(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    ids, last = _select(connection, "old_intents", call, max_weight=MAX_BYTES)
    return SweepResult(deleted={"intents": connection.execute(sql("delete_intents"), {"ids": ids}).rowcount}, next=last)


def _events(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    ids, last = _select(connection, "old_events", call, max_weight=MAX_ROWS)
    deliveries, attempts = connection.execute(sql("count_deliveries"), {"ids": ids}).fetchone()
    events = connection.execute(sql("delete_events"), {"ids": ids}).rowcount
    return SweepResult(deleted={"events": events, "deliveries": deliveries, "attempts": attempts}, next=last)


def _tasks(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    ids, last = _select(connection, "old_tasks", call, max_weight=MAX_ROWS)
    pushes = connection.execute(sql("count_pushes"), {"ids": ids}).fetchone()[0]
    return SweepResult(
        deleted={"tasks": connection.execute(sql("delete_tasks"), {"ids": ids}).rowcount, "pushes": pushes}, next=last
    )


def _batches(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_batches"), call.arguments).rowcount
    return SweepResult(deleted={"batches": count}, next="" if count else None)


def _actions(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_actions"), call.arguments).rowcount
    count += connection.execute(sql("delete_kept_costs"), call.arguments).rowcount
    return SweepResult(deleted={"actions": count}, next="" if count else None)


def _replays(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_replays"), call.arguments).rowcount
    return SweepResult(deleted={"replays": count}, next="" if count else None)


def _alerts(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_alerts"), call.arguments).rowcount
    return SweepResult(deleted={"alerts": count}, next="" if count else None)


def _sessions(connection: sqlite3.Connection, call: SweepCall) -> SweepResult:
    count = connection.execute(sql("delete_expired_sessions"), call.arguments).rowcount
    count += connection.execute(sql("delete_expired_links"), call.arguments).rowcount
    return SweepResult(deleted={"sessions": count}, next="" if count else None)


_SWEEPERS: Mapping[RetentionTarget, Callable[[sqlite3.Connection, SweepCall], SweepResult]] = {
    RetentionTarget.BODIES: _bodies,
    RetentionTarget.INTENTS: _intents,
    RetentionTarget.EVENTS: _events,
    RetentionTarget.TASKS: _tasks,
    RetentionTarget.BATCHES: _batches,
    RetentionTarget.ACTIONS: _actions,
    RetentionTarget.REPLAYS: _replays,
    RetentionTarget.ALERTS: _alerts,
    RetentionTarget.SESSIONS: _sessions,
}


def _select(connection: sqlite3.Connection, name: str, call: SweepCall, *, max_weight: int) -> tuple[str, str | None]:
    """Select the deletable rows of one page. Return their ids as JSON, and the row before the next page, or None."""
    page = connection.execute(sql(name), call.arguments).fetchall()
    ids, last = choose_rows(page, after=call.after, max_weight=max_weight)
    return json.dumps(ids), last


# Deletion frees disk space, so it is never refused for lack of it. What a power cut undoes, the next sweep deletes.
_SWEEP: WriteOp[SweepCall, SweepResult] = WriteOp(write=_sweep, uses_disk=False, is_durable=False)
