"""The only writer: pending writes share one transaction, and each caller resumes after the commit.

A commit costs the same for one row and for a hundred. Under load the groups grow, so the cost per call falls.
One task owns the connection's transactions. Cancelling a caller does not cancel its write once the group has started.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
import structlog

from receiver.domain.errors import StoreBroken, StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.store.item_error import ItemError
from receiver.store.sqlite.database import ConnectionThread, Health

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")

_MAX_GROUP_SIZE = 256

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class WriteOp(Generic[Item, Result]):
    """One kind of write, which handles all items of a group with the same few statements.

    ``write`` runs in the writer's thread, inside the transaction, and returns one result or ItemError per item.
    ``uses_disk``: the write needs disk space, so it is refused first when space is low.
    ``is_durable``: the write must survive a power cut. A group without such a write is not synced to the disk.
    """

    write: Callable[[sqlite3.Connection, Sequence[Item]], Sequence[Result | ItemError]]
    uses_disk: bool = True
    is_durable: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class DecidedWriteOp(Generic[Item, Seen, Plan, Result]):
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


class _Pending(msgspec.Struct, eq=False):
    """One caller's items, and the future of their results."""

    op: AnyWriteOp
    items: Sequence[Any]
    future: asyncio.Future[Sequence[Any]]

    def resolve(self, results: Sequence[object]) -> None:
        """Wake the caller with a result or an ItemError per item, unless it was cancelled."""
        if not self.future.done():
            self.future.set_result(results)

    def fail(self, error: Exception) -> None:
        """Wake the caller with the same error for each item."""
        self.resolve([ItemError(error)] * len(self.items))


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
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._transaction_lock = asyncio.Lock()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="store-writer")

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
        self._health.check()
        if self._closing or self._task.done():
            raise StoreUnavailable("The store is closed.")
        future: asyncio.Future[Sequence[Result | ItemError]] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(op, items, future))
        self._wake.set()
        results = await future
        self._health.check()  # a reader may have found damage since the commit
        return results

    async def run_exclusive(self, function: Callable[[sqlite3.Connection], Done]) -> Done:
        """Call *function* with the connection between two transactions, for work that cannot be part of one."""
        self._health.check()
        async with self._transaction_lock:
            if self._closing or self._task.done():
                raise StoreUnavailable("The store is closed.")
            return await self._thread.run(function)

    async def aclose(self) -> None:
        """Write what is pending, then stop."""
        self._closing = True
        self._wake.set()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        try:
            while self._pending or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while self._pending:
                    group = self._next_group()
                    if group:
                        async with self._transaction_lock:
                            await self._process_group(group)
                    # Let the callers that were just woken submit their next write, so that the next group has it.
                    await asyncio.sleep(0)
        except Exception as exc:
            self._health.classify(StoreBroken(f"The store's writer failed: {exc!r}."))
            raise
        finally:
            self._reject_unwritten(self._pending)

    def _next_group(self) -> list[_Pending]:
        calls: list[_Pending] = []
        size = 0
        while self._pending and size < _MAX_GROUP_SIZE:
            calls.append(self._pending.popleft())
            size += len(calls[-1].items)
        if any(call.op.uses_disk for call in calls) and not self._has_space():
            for call in calls:
                if call.op.uses_disk:
                    call.fail(_disk_almost_full())
        return [call for call in calls if not call.future.done()]

    async def _process_group(self, group: list[_Pending]) -> None:
        """Write a group; if one item makes it fail, write each item alone. Every caller gets a result or an error."""
        try:
            try:
                self._health.check()
                results = await self._transact(group)
            except Exception as exc:  # noqa: BLE001 -- every error is passed on to the callers
                await self._fail_group(group, self._health.classify(exc))
            else:
                remaining = iter(results)
                for call in group:
                    call.resolve(list(islice(remaining, len(call.items))))
        except BaseException:
            self._reject_unwritten(group)
            raise

    async def _fail_group(self, group: list[_Pending], error: Exception) -> None:
        is_general = isinstance(error, StoreUnavailable | StoreBroken)
        for call in group:
            if is_general or (len(group) == 1 and len(call.items) == 1):
                call.fail(error)
            else:
                await self._write_each(call)

    async def _write_each(self, call: _Pending) -> None:
        """Write each item of a call alone."""
        alone = [_Pending(call.op, (item,), asyncio.get_running_loop().create_future()) for item in call.items]
        for each in alone:
            await self._process_group([each])
        call.resolve([each.future.result()[0] for each in alone])

    async def _transact(self, group: list[_Pending]) -> list[object]:
        """Write a group between one BEGIN and one COMMIT.

        Decided operations come first: nothing may be written between their load and their write.
        """
        op_groups = sorted(_op_groups(group), key=lambda op_group: not op_group.needs_decision)
        results: list[object] = [None] * sum(len(call.items) for call in group)
        began = time.perf_counter()
        try:
            begun = op_groups[0].needs_decision
            if begun:
                await self._thread.run(_begin_and_load, op_groups)
                for op_group in op_groups:
                    op_group.decide(results)
            await self._thread.run(_write_and_commit, op_groups, results, self._after_commit, begun=begun)
        except BaseException:
            await self._thread.run(_roll_back)
            raise
        self._metrics.store_commit_seconds.observe(time.perf_counter() - began)
        self._metrics.store_group_size.observe(len(results))
        return results

    def _reject_unwritten(self, calls: Iterable[_Pending]) -> None:
        for call in calls:
            call.fail(StoreUnavailable("The store was closed before the write."))


def _disk_almost_full() -> StoreUnavailable:
    return StoreUnavailable("The disk is almost full.", remedy="Make room: writes resume by themselves.")


@dataclass(slots=True, eq=False)
class _OpGroup:
    """The items of one operation in a group, and their positions in the group."""

    op: AnyWriteOp
    items: list[Any]
    positions: list[int]
    loaded: Any = None
    plan: Any = None

    @property
    def needs_decision(self) -> bool:
        return isinstance(self.op, DecidedWriteOp)

    def load(self, connection: sqlite3.Connection) -> None:
        if isinstance(self.op, DecidedWriteOp):
            self.loaded = self.op.load(connection, self.items)

    def decide(self, results: list[object]) -> None:
        if isinstance(self.op, DecidedWriteOp):
            decided, self.plan = self.op.decide(self.items, self.loaded)
            self._set_results(decided, results)

    def write(self, connection: sqlite3.Connection, results: list[object]) -> None:
        match self.op:
            case DecidedWriteOp(write=write_plan):
                write_plan(connection, self.plan)
            case WriteOp(write=write):
                self._set_results(write(connection, self.items), results)

    def _set_results(self, values: Sequence[object], results: list[object]) -> None:
        for position, result in zip(self.positions, values, strict=True):
            results[position] = result


def _op_groups(group: list[_Pending]) -> list[_OpGroup]:
    op_groups: dict[AnyWriteOp, _OpGroup] = {}
    position = 0
    for call in group:
        op_group = op_groups.setdefault(call.op, _OpGroup(call.op, [], []))
        op_group.items += call.items
        op_group.positions += range(position, position := position + len(call.items))
    return list(op_groups.values())


def _begin_and_load(connection: sqlite3.Connection, op_groups: Sequence[_OpGroup]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for op_group in op_groups:
        op_group.load(connection)


def _write_and_commit(
    connection: sqlite3.Connection,
    op_groups: Sequence[_OpGroup],
    results: list[object],
    after_commit: Callable[[sqlite3.Connection], None],
    *,
    begun: bool,
) -> None:
    is_durable = any(op_group.op.is_durable for op_group in op_groups)
    if not begun:
        if not is_durable:
            connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
    for op_group in op_groups:
        op_group.write(connection, results)
    connection.execute("COMMIT")
    if not is_durable:
        connection.execute("PRAGMA synchronous = FULL")
    after_commit(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    # If the disk was full, SQLite has already rolled back.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("PRAGMA synchronous = FULL")
