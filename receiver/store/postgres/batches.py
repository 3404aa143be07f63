"""Batches in a PostgreSQL store: their states and counts, their closing, and the single finish of each."""

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
from receiver.store.postgres import catalog
from receiver.store.postgres.catalog import list_or_none
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import change, change_audited, fetch, fetch_row
from receiver.store.postgres.task_changes import write_events
from receiver.store.postgres.writer import WriteOp, Writer

_MAX_COMPLETE = 100  # batches per call of list_complete


class PostgresBatchStore:
    """Batches of tasks."""

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
        arguments = {"states": list_or_none(states), "cursor": decode_cursor(cursor, prefix="bat")}
        return await self._lists.read(_page, arguments, limit=limit)


async def _list_complete(connection: Connection) -> Sequence[str]:
    return [row["name"] for row in await fetch(connection, "complete_batches", {"limit": _MAX_COMPLETE})]


async def _page(connection: Connection, arguments: Mapping[str, object], *, limit: int) -> Page[BatchView]:
    found = await catalog.page(connection, "list_batches", arguments, limit=limit, read=read_batch)
    counts = await _counts(connection, [batch.name for batch in found.items])
    return Page(items=[BatchView(batch=each, counts=counts[each.name]) for each in found.items], next=found.next)


async def _counts(connection: Connection, names: Sequence[str]) -> Mapping[str, Mapping[ListedState, int]]:
    counts: dict[str, dict[ListedState, int]] = {name: {} for name in names}
    for row in await fetch(connection, "batch_states", {"names": names}):
        counts[row["batch"]][ListedState(row["state"])] = row["tasks"]
    for counted in counts.values():
        set_cancelled_apart(counted)
    return counts


async def _close(connection: Connection, group: Sequence[CloseBatchCall]) -> Sequence[bool]:
    return [
        await change_audited(
            connection,
            "close_batch",
            {"name": call.name, "now": micros(call.now)},
            action=rows.action_row(call.action),
        )
        for call in group
    ]


async def _finish(connection: Connection, group: Sequence[FinishCall]) -> Sequence[RoutedEvent | ItemError | None]:
    # Before the batches, for which others wait who hold this lock.
    await fetch(connection, "lock_event_order")
    results = [await _finish_one(connection, call) for call in group]
    routed = [result for result in results if isinstance(result, RoutedEvent)]
    deliveries = [delivery for each in routed for delivery in each.deliveries]
    await write_events(connection, [each.event for each in routed], deliveries)
    return results


async def _finish_one(connection: Connection, call: FinishCall) -> RoutedEvent | ItemError | None:
    """Hold a complete, unfinished batch and read its tasks, so that its event describes one point in time."""
    row = await fetch_row(connection, "complete_batches", {"name": call.name, "limit": 1})
    if row is None:
        return None
    batch = await _load_finished(connection, read_batch(row), call.limit)
    try:
        routed = call.make_event(batch)
    except Exception as exc:  # noqa: BLE001 -- an error of a caller's make_event concerns only that caller
        return ItemError(exc)
    arguments = {"name": call.name, "now": micros(routed.event.created_at), "event_id": routed.event.id}
    await change(connection, "finish_batch", arguments)
    return routed


async def _load_finished(connection: Connection, batch: Batch, limit: int) -> FinishedBatch:
    found = await fetch(connection, "finished_batch_tasks", {"name": batch.name, "limit": limit})
    tasks = [read_finished_task(row) for row in found]
    return FinishedBatch(batch=batch, counts=(await _counts(connection, [batch.name]))[batch.name], tasks=tasks)


_CLOSE: WriteOp[CloseBatchCall, bool] = WriteOp(write=_close)
_FINISH: WriteOp[FinishCall, RoutedEvent | None] = WriteOp(write=_finish)
