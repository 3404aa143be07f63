"""The only writer: pending writes share one transaction, and each caller resumes after the commit.

One task owns the connection's transactions. Cancelling a caller does not cancel its write once the group has started.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.store.item_error import ItemError
from receiver.store.sqlite.database import ConnectionThread, Health
from receiver.store.write_queue import OpGroup, PendingWrite, WriteQueue, op_groups

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")


class WriteOp(msgspec.Struct, Generic[Item, Result], frozen=True, eq=False):
    """One kind of write, which handles all items of a group with the same few statements.

    ``write`` runs in the writer's thread, inside the transaction, and returns one result or ItemError per item.
    ``uses_disk``: the write needs disk space, so it is refused first when space is low.
    ``is_durable``: the write must survive a power cut. A group without such a write is not synced to the disk.
    """

    write: Callable[[sqlite3.Connection, Sequence[Item]], Sequence[Result | ItemError]]
    uses_disk: bool = True
    is_durable: bool = True


class DecidedWriteOp(msgspec.Struct, Generic[Item, Seen, Plan, Result], frozen=True, eq=False):
    """A kind of write whose content the caller's code decides, on the event loop and inside the transaction.

    ``load`` reads what the decision needs. ``decide`` returns the results and a plan. ``write`` executes the plan.
    """

    load: Callable[[sqlite3.Connection, Sequence[Item]], Seen]
    decide: Callable[[Sequence[Item], Seen], tuple[Sequence[Result | ItemError], Plan]]
    write: Callable[[sqlite3.Connection, Plan], None]
    uses_disk: bool = True
    is_durable: bool = True


# A group contains items of many types; only `Writer.execute` knows the item type of each operation.
AnyWriteOp: TypeAlias = WriteOp[Any, Any] | DecidedWriteOp[Any, Any, Any, Any]


class Writer:
    """Groups the writes of many callers into transactions on one connection.

    ``after_commit`` may raise only StoreBroken, because the group is already committed.
    """

    def __init__(
        self,
        thread: ConnectionThread,
        health: Health,
        *,
        has_space: Callable[[], bool],
        after_commit: Callable[[sqlite3.Connection], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._thread = thread
        self._health = health
        self._has_space = has_space
        self._after_commit = after_commit
        self._metrics = metrics or Metrics()
        self._transaction_lock = asyncio.Lock()
        self._queue = WriteQueue(self._transact, health, refuse=self._refuse_without_space)

    async def execute(self, op: WriteOp[Item, Result] | DecidedWriteOp[Item, Seen, Plan, Result], item: Item) -> Result:
        """Write *item* and return its result after the commit.

        Raises StoreUnavailable, StoreBroken or the error of the item itself. Then nothing of it was written,
        or the store has broken and nothing of it may be acknowledged.
        """
        (result,) = await self.execute_all(op, (item,))
        if isinstance(result, ItemError):
            raise result.error
        return result

    async def execute_all(
        self, op: WriteOp[Item, Result] | DecidedWriteOp[Item, Seen, Plan, Result], items: Sequence[Item]
    ) -> Sequence[Result | ItemError]:
        """Write *items*, at least one, and return a result or an error for each after the commit.

        Raises StoreUnavailable, StoreBroken as ``execute``.
        """
        return await self._queue.write(op, items)

    async def run_exclusive(self, function: Callable[[sqlite3.Connection], Done]) -> Done:
        """Call *function* with the connection between two transactions, for work that cannot be part of one."""
        self._health.check()
        async with self._transaction_lock:
            self._queue.require_open()
            return await self._thread.run(function)

    async def aclose(self) -> None:
        """Write what is pending, then stop."""
        await self._queue.aclose()

    def _refuse_without_space(self, calls: Sequence[PendingWrite]) -> None:
        if any(call.op.uses_disk for call in calls) and not self._has_space():
            for call in calls:
                if call.op.uses_disk:
                    call.fail(_disk_almost_full())

    async def _transact(self, group: Sequence[PendingWrite]) -> Sequence[object]:
        """Write a group between one BEGIN and one COMMIT.

        Decided operations come first: nothing may be written between their load and their write.
        """
        found = sorted(op_groups(group), key=lambda each: not isinstance(each.op, DecidedWriteOp))
        results: list[object] = [None] * sum(len(each.items) for each in found)
        async with self._transaction_lock:
            began = time.perf_counter()
            try:
                begun = isinstance(found[0].op, DecidedWriteOp)
                if begun:
                    await self._thread.run(_begin_and_load, found)
                    _decide(found, results)
                await self._thread.run(_write_and_commit, found, results, self._after_commit, begun=begun)
            except BaseException:
                await self._thread.run(_roll_back)
                raise
        self._metrics.store_commit_seconds.observe(time.perf_counter() - began)
        self._metrics.store_group_size.observe(len(results))
        return results


def _disk_almost_full() -> StoreUnavailable:
    return StoreUnavailable("The disk is almost full.", remedy="Make room: writes resume by themselves.")


def _decide(found: Sequence[OpGroup[AnyWriteOp]], results: list[object]) -> None:
    for each in found:
        if isinstance(each.op, DecidedWriteOp):
            decided, each.plan = each.op.decide(each.items, each.loaded)
            each.set_results(decided, results)


def _begin_and_load(connection: sqlite3.Connection, found: Sequence[OpGroup[AnyWriteOp]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for each in found:
        if isinstance(each.op, DecidedWriteOp):
            each.loaded = each.op.load(connection, each.items)


def _write_and_commit(
    connection: sqlite3.Connection,
    found: Sequence[OpGroup[AnyWriteOp]],
    results: list[object],
    after_commit: Callable[[sqlite3.Connection], None],
    *,
    begun: bool,
) -> None:
    is_durable = any(each.op.is_durable for each in found)
    if not begun:
        if not is_durable:
            connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
    for each in found:
        match each.op:
            case DecidedWriteOp(write=write_plan):
                write_plan(connection, each.plan)
            case WriteOp(write=write):
                each.set_results(write(connection, each.items), results)
    connection.execute("COMMIT")
    if not is_durable:
        connection.execute("PRAGMA synchronous = FULL")
    after_commit(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    # If the disk was full, SQLite has already rolled back.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("PRAGMA synchronous = FULL")
