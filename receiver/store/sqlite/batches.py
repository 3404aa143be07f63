"""Batches in the store's file: their states and counts, their closing, and the single finish of each."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from receiver.domain.audit import AuditEntry
from receiver.domain.batches import Batch, BatchState, BatchView, FinishedBatch
from receiver.domain.clock import micros
from receiver.domain.listed_state import ListedState
from receiver.events.factory import RoutedEvent
from receiver.store import rows
from receiver.store.batch_members import read_batch, read_finished_task
from receiver.store.calls import CloseBatchCall, FinishCall
from receiver.store.cursors import decode_cursor
from receiver.store.interfaces import Page
from receiver.store.item_error import ItemError
from receiver.store.list_filters import set_cancelled_apart
from receiver.store.sqlite import catalog
from receiver.store.sqlite.catalog import json_list
from receiver.store.sqlite.database import Reader
from receiver.store.sqlite.queries import change_audited, queries, sql
from receiver.store.sqlite.task_changes import write_events
from receiver.store.sqlite.writer import DecidedWriteOp, WriteOp, Writer

_MAX_COMPLETE = 100  # batches per call of list_complete


class SqliteBatchStore:
    """Batches of tasks, in the store's file."""

    def __init__(self, writer: Writer, hot: Reader, lists: Reader) -> None:
        self._writer = writer
        self._hot = hot
        self._lists = lists

    async def close(self, name: str, *, now: datetime, action: AuditEntry) -> bool:
        """Close a batch for new tasks; return False if it is not open."""
        return await self._writer.execute(_CLOSE, CloseBatchCall(name=name, now=now, action=action))

    async def list_complete(self) -> Sequence[str]:
        """Return the names of closed batches whose tasks and archiving have all ended and that are not finished yet."""
        return await self._hot.read(_list_complete)

    async def finish(
        self, name: str, make_event: Callable[[FinishedBatch], RoutedEvent], *, limit: int
    ) -> RoutedEvent | None:
        """Store the event that *make_event* makes of a complete batch and its first *limit* tasks, in one transaction.

        Return None and write nothing if the batch is not complete or already finished.
        """
        return await self._writer.execute(_FINISH, FinishCall(name=name, make_event=make_event, limit=limit))

    async def find(self, name: str) -> BatchView | None:
        """Find a batch."""
        found = await self._lists.read(_page, {"name": name}, limit=1)
        return found.items[0] if found.items else None

    async def list(
        self, *, states: Sequence[BatchState] = (), limit: int = 50, cursor: str | None = None
    ) -> Page[BatchView]:
        """List batches, newest first."""
        arguments = {"states": json_list(states), "cursor": decode_cursor(cursor, prefix="bat")}
        return await self._lists.read(_page, arguments, limit=limit)


def _list_complete(connection: sqlite3.Connection) -> Sequence[str]:
    statement = queries()["complete_batches"].with_optional({})
    return [row["name"] for row in connection.execute(statement, {"limit": _MAX_COMPLETE})]


def _page(connection: sqlite3.Connection, arguments: Mapping[str, object], *, limit: int) -> Page[BatchView]:
    found = catalog.page(connection, "list_batches", arguments, limit=limit, read=read_batch)
    counts = _counts(connection, [batch.name for batch in found.items])
    return Page(items=[BatchView(batch=each, counts=counts[each.name]) for each in found.items], next=found.next)


def _counts(connection: sqlite3.Connection, names: Sequence[str]) -> Mapping[str, Mapping[ListedState, int]]:
    counts: dict[str, dict[ListedState, int]] = {name: {} for name in names}
    for row in connection.execute(sql("batch_states"), {"names": json.dumps(names)}):
        counts[row["batch"]][ListedState(row["state"])] = row["tasks"]
    for counted in counts.values():
        set_cancelled_apart(counted)
    return counts


def _close(connection: sqlite3.Connection, group: Sequence[CloseBatchCall]) -> Sequence[bool]:
    return [
        change_audited(
            connection,
            "close_batch",
            {"name": call.name, "now": micros(call.now)},
            action=rows.action_row(call.action),
        )
        for call in group
    ]


def _load(connection: sqlite3.Connection, group: Sequence[FinishCall]) -> dict[str, FinishedBatch]:
    """Read each complete, unfinished batch with its tasks, so that its event describes one point in time."""
    statement = queries()["complete_batches"].with_optional({"name": True})
    finished = {}
    for call in group:
        row = connection.execute(statement, {"name": call.name, "limit": 1}).fetchone()
        if row is not None:
            finished[call.name] = _load_finished(connection, read_batch(row), call.limit)
    return finished


def _load_finished(connection: sqlite3.Connection, batch: Batch, limit: int) -> FinishedBatch:
    found = connection.execute(sql("finished_batch_tasks"), {"name": batch.name, "limit": limit})
    tasks = [read_finished_task(row) for row in found]
    return FinishedBatch(batch=batch, counts=_counts(connection, [batch.name])[batch.name], tasks=tasks)


def _decide(
    group: Sequence[FinishCall], finished: dict[str, FinishedBatch]
) -> tuple[Sequence[RoutedEvent | ItemError | None], Mapping[str, RoutedEvent]]:
    routed: dict[str, RoutedEvent] = {}
    results: list[RoutedEvent | ItemError | None] = []
    for call in group:
        batch = finished.pop(call.name, None)  # popped, so that one group finishes a batch once
        if batch is None:
            results.append(None)
            continue
        try:
            routed[call.name] = call.make_event(batch)
            results.append(routed[call.name])
        except Exception as exc:  # noqa: BLE001 -- an error of a caller's make_event concerns only that caller
            results.append(ItemError(exc))
    return results, routed


def _write(connection: sqlite3.Connection, routed: Mapping[str, RoutedEvent]) -> None:
    for name, finish in routed.items():
        event = finish.event
        arguments = {"name": name, "now": micros(event.created_at), "event_id": event.id}
        if connection.execute(sql("finish_batch"), arguments).rowcount != 1:
            raise RuntimeError(f"batch {name} was finished twice in one transaction")
        write_events(connection, [event], finish.deliveries)


_CLOSE: WriteOp[CloseBatchCall, bool] = WriteOp(write=_close, uses_disk=False)
_FINISH: DecidedWriteOp[FinishCall, dict[str, FinishedBatch], Mapping[str, RoutedEvent], RoutedEvent | None] = (
    DecidedWriteOp(load=_load, decide=_decide, write=_write)
)
