"""Batches in the store's file: how they stand, what closes them, and the one time each is finished."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from receiver.domain.audit import AuditEntry
from receiver.domain.batches import Batch, BatchState, BatchView, FinishedBatch, FinishedTask
from receiver.domain.clock import micros
from receiver.domain.model import TaskState
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import Page
from receiver.store.sqlite import catalog, rows
from receiver.store.sqlite.batch_members import read_batch
from receiver.store.sqlite.catalog import decode_cursor, json_list
from receiver.store.sqlite.queries import change_audited, queries, sql
from receiver.store.sqlite.tasks import write_events
from receiver.store.sqlite.writer import DecidedWriteOp, ItemError, WriteOp, Writer

Read: TypeAlias = Callable[..., Awaitable[Any]]

_MAX_COMPLETE = 100  # complete batches that are found at once


class SqliteBatchStore:
    """What tasks share a batch, in the store's file."""

    def __init__(self, writer: Writer, hot_read: Read, list_read: Read) -> None:
        self._writer = writer
        self._hot_read = hot_read
        self._list_read = list_read

    async def close(self, name: str, *, now: datetime, action: AuditEntry) -> bool:
        """Let a batch take no more tasks in; False where it is not open."""
        return await self._writer.execute(_CLOSE, CloseCall(name=name, now=now, action=action))

    async def list_complete(self) -> Sequence[str]:
        """Name batches that are closed and whose tasks are all over, their results home or given up, untold so far."""
        found: Sequence[str] = await self._hot_read(_list_complete)
        return found

    async def finish(
        self, name: str, make_event: Callable[[FinishedBatch], RoutedEvent], *, limit: int
    ) -> RoutedEvent | None:
        """Store what *announce* makes of a complete batch and its first *limit* tasks, in one transaction.

        None, and nothing written, where it is not complete, or was finished before.
        """
        return await self._writer.execute(_FINISH, FinishCall(name=name, make_event=make_event, limit=limit))

    async def find(self, name: str) -> BatchView | None:
        """Find a batch."""
        found: Page[BatchView] = await self._list_read(_page, {"name": name}, limit=1)
        return found.items[0] if found.items else None

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        wanted = {"states": json_list(states), "cursor": decode_cursor(cursor, prefix="bat")}
        found: Page[BatchView] = await self._list_read(_page, wanted, limit=limit)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseCall:
    """One call of ``close``."""

    name: str
    now: datetime
    action: AuditEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishCall:
    """One call of ``finish``."""

    name: str
    make_event: Callable[[FinishedBatch], RoutedEvent]
    limit: int


def _list_complete(connection: sqlite3.Connection) -> Sequence[str]:
    statement = queries()["complete_batches"].with_optional({})
    return [row["name"] for row in connection.execute(statement, {"limit": _MAX_COMPLETE})]


def _page(connection: sqlite3.Connection, arguments: Mapping[str, object], *, limit: int) -> Page[BatchView]:
    found = catalog.page(connection, "list_batches", arguments, limit=limit, read=read_batch)
    counts = _counts(connection, [batch.name for batch in found.items])
    return Page(items=[BatchView(batch=each, counts=counts[each.name]) for each in found.items], next=found.next)


def _counts(connection: sqlite3.Connection, names: Sequence[str]) -> Mapping[str, Mapping[TaskState, int]]:
    counts: dict[str, dict[TaskState, int]] = {name: {} for name in names}
    for row in connection.execute(sql("batch_states"), {"names": json.dumps(names)}):
        counts[row["batch"]][TaskState(row["state"])] = row["tasks"]
    return counts


def _close(connection: sqlite3.Connection, group: Sequence[CloseCall]) -> Sequence[bool]:
    return [
        change_audited(
            connection,
            "close_batch",
            {"name": close.name, "now": micros(close.now)},
            action=rows.action_row(close.action),
        )
        for close in group
    ]


def _load(connection: sqlite3.Connection, group: Sequence[FinishCall]) -> dict[str, FinishedBatch]:
    """Read each batch whole that is still to be finished: what its announcement tells is true as of one moment."""
    statement = queries()["complete_batches"].with_optional({"name": True})
    ends = {}
    for finish in group:
        row = connection.execute(statement, {"name": finish.name, "limit": 1}).fetchone()
        if row is not None:
            ends[finish.name] = _load_finished(connection, read_batch(row), finish.limit)
    return ends


def _load_finished(connection: sqlite3.Connection, batch: Batch, limit: int) -> FinishedBatch:
    found = connection.execute(sql("finished_batch_tasks"), {"name": batch.name, "limit": limit})
    tasks = [FinishedTask(task=rows.task(row), envelope=row["envelope"] or b"") for row in found]
    return FinishedBatch(batch=batch, counts=_counts(connection, [batch.name])[batch.name], tasks=tasks)


def _decide(
    group: Sequence[FinishCall], finished: dict[str, FinishedBatch]
) -> tuple[Sequence[RoutedEvent | ItemError | None], Mapping[str, RoutedEvent]]:
    said: dict[str, RoutedEvent] = {}
    results: list[RoutedEvent | ItemError | None] = []
    for finish in group:
        end = finished.pop(finish.name, None)  # popped, so that one group finishes a batch once
        if end is None:
            results.append(None)
            continue
        try:
            said[finish.name] = finish.make_event(end)
            results.append(said[finish.name])
        except Exception as exc:  # noqa: BLE001 -- whatever a caller's words raise is its caller's alone
            results.append(ItemError(exc))
    return results, said


def _write(connection: sqlite3.Connection, routed: Mapping[str, RoutedEvent]) -> None:
    for name, announcement in routed.items():
        event = announcement.event
        wanted = {"name": name, "now": micros(event.created_at), "event_id": event.id}
        if connection.execute(sql("finish_batch"), wanted).rowcount != 1:
            raise RuntimeError(f"batch {name} was finished within one transaction by another hand")
        write_events(connection, [event], announcement.deliveries)


_CLOSE: WriteOp[CloseCall, bool] = WriteOp(write=_close, uses_disk=False)
_FINISH: DecidedWriteOp[FinishCall, dict[str, FinishedBatch], Mapping[str, RoutedEvent], RoutedEvent | None] = (
    DecidedWriteOp(load=_load, decide=_decide, write=_write)
)
