"""The only writer: pending writes share one transaction, and each caller resumes after the commit.

One task owns the connection's transactions. Cancelling a caller does not cancel its write once the group has started.

A transaction of short writes runs on the event loop, and only its commit, which waits for the disk, in the writer's
thread. In the thread the rest would take a tenth more time: both threads run Python, and wait for each other at every
statement. Long writes run in the thread, and so do all writes for a while after a transaction that was slow.
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
from receiver.store.sqlite.connection_thread import ConnectionThread
from receiver.store.sqlite.database import BUSY_TIMEOUT_MS, Health
from receiver.store.write_queue import OpGroup, PendingWrite, WriteQueue, op_groups

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")


# What a statement would undo is kept in memory or a file. A group of callbacks has more than 64 KiB of it: in a file,
# that is an open, 40 writes and a close. And the event loop must not wait for another process that writes.
_ON_LOOP = ("PRAGMA busy_timeout = 0", "PRAGMA temp_store = MEMORY")
_IN_THREAD = (f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}", "PRAGMA temp_store = FILE")

_MAX_BYTES_ON_LOOP = 256 * 1024
_MAX_SECONDS_ON_LOOP = 0.02
_MAX_SECONDS_PER_ITEM = 0.00025
_GROUPS_AFTER_SLOW = 50
"""Groups in the thread after one that was slow on the event loop. The disk may be slow, or some writes read large rows
and come again between others. Groups in the thread are not timed: a busy event loop makes them wait for Python's lock.
"""


class WriteOp(msgspec.Struct, Generic[Item, Result], frozen=True, eq=False):
    """One kind of write, which handles all items of a group with the same few statements.

    ``write`` runs inside the transaction, and returns one result or ItemError per item.
    ``uses_disk``: the write needs disk space, so it is refused first when space is low.
    ``is_durable``: the write must survive a power cut. A group without such a write is not synced to the disk.
    ``size`` returns the bytes that items write, apart from a few hundred each. A small write runs on the event loop,
    one without a size always in the writer's thread.
    """

    write: Callable[[sqlite3.Connection, Sequence[Item]], Sequence[Result | ItemError]]
    uses_disk: bool = True
    is_durable: bool = True
    size: Callable[[Sequence[Item]], int] | None = None


def bodiless(_items: object) -> int:
    """Return the size of items without bodies."""
    return 0


class DecidedWriteOp(msgspec.Struct, Generic[Item, Seen, Plan, Result], frozen=True, eq=False):
    """A kind of write whose content the caller's code decides, on the event loop and inside the transaction.

    ``load`` reads what the decision needs. ``decide`` returns the results and a plan. ``write`` executes the plan.
    ``size`` returns the bytes of a plan, see ``WriteOp``.
    """

    load: Callable[[sqlite3.Connection, Sequence[Item]], Seen]
    decide: Callable[[Sequence[Item], Seen], tuple[Sequence[Result | ItemError], Plan]]
    write: Callable[[sqlite3.Connection, Plan], None]
    uses_disk: bool = True
    is_durable: bool = True
    size: Callable[[Plan], int] | None = None


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
        self._groups_in_thread = 1  # after a start, most of the file is not in memory
        self._settings: Sequence[str] | None = None  # of the connection, if they are known
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
        transaction = _Transaction(found, [None] * sum(len(each.items) for each in found))
        async with self._transaction_lock:
            began = time.perf_counter()
            try:
                await self._run(transaction)
            except BaseException:
                self._settings = None
                await self._thread.run(_roll_back)
                raise
            finally:
                left = max(0, self._groups_in_thread - 1)
                self._groups_in_thread = _GROUPS_AFTER_SLOW if transaction.is_slow else left
        self._metrics.store_commit_seconds.observe(time.perf_counter() - began)
        self._metrics.store_group_size.observe(len(transaction.results))
        return transaction.results

    async def _run(self, transaction: "_Transaction") -> None:
        if not self._begins_here(transaction):
            await self._run_in_thread(transaction)
            return
        self._run_here(_load, transaction)
        transaction.decide()
        if transaction.is_small() and not transaction.is_slow:
            self._run_here(_write, transaction)
            # Not with the transaction: its thousands of values would be freed in the thread, from another core's cache.
            await self._thread.run(_commit, self._after_commit, is_durable=transaction.is_durable)
        else:
            await self._thread.run(_write_and_commit, transaction, self._after_commit)

    def _run_here(
        self, step: Callable[[sqlite3.Connection, "_Transaction"], None], transaction: "_Transaction"
    ) -> None:
        """Run a step of a transaction on the event loop, and add the time that it takes."""
        began = time.perf_counter()
        try:
            self._thread.run_here(step, transaction)
        finally:
            transaction.seconds += time.perf_counter() - began

    def _begins_here(self, transaction: "_Transaction") -> bool:
        """Begin the transaction on the event loop, unless it or the disk may be slow, or the connection is in use."""
        if self._groups_in_thread or not self._thread.is_idle or not transaction.is_short():
            return False
        self._set_up(transaction, _ON_LOOP)
        return self._thread.run_here(_begin_at_once, transaction)

    def _set_up(self, transaction: "_Transaction", settings: Sequence[str]) -> None:
        """Let the transaction begin with *settings*, unless the connection has them already."""
        transaction.settings = () if settings is self._settings else settings
        self._settings = settings

    async def _run_in_thread(self, transaction: "_Transaction") -> None:
        self._set_up(transaction, _IN_THREAD)
        if transaction.needs_decisions():
            await self._thread.run(_begin_and_load, transaction)
            transaction.decide()
            await self._thread.run(_write_and_commit, transaction, self._after_commit)
        else:
            await self._thread.run(_write_alone, transaction, self._after_commit)


class _Transaction(msgspec.Struct, eq=False):
    """The items of a group by operation, and their results.

    ``settings`` are statements before its begin. ``seconds`` is the time that its statements took on the event loop.
    """

    found: Sequence[OpGroup[AnyWriteOp]]
    results: list[object]
    settings: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def is_durable(self) -> bool:
        """Whether the transaction must survive a power cut."""
        return any(each.op.is_durable for each in self.found)

    @property
    def is_slow(self) -> bool:
        """Whether its statements kept the event loop for much longer than they take on small rows in memory."""
        return self.seconds > _MAX_SECONDS_ON_LOOP + _MAX_SECONDS_PER_ITEM * len(self.results)

    def needs_decisions(self) -> bool:
        """Return whether an operation is decided inside the transaction. Such operations are the first."""
        return isinstance(self.found[0].op, DecidedWriteOp)

    def is_short(self) -> bool:
        """Return whether the event loop may run the transaction, as far as is known before the decisions."""
        return all(each.op.size is not None for each in self.found) and self._size(decided=False) <= _MAX_BYTES_ON_LOOP

    def is_small(self) -> bool:
        """Return whether the event loop may write what was decided."""
        return self._size(decided=True) <= _MAX_BYTES_ON_LOOP

    def _size(self, *, decided: bool) -> int:
        return sum(
            each.op.size(each.plan if decided else each.items)
            for each in self.found
            if isinstance(each.op, DecidedWriteOp) is decided and each.op.size is not None
        )

    def decide(self) -> None:
        """Let the callers decide what is written."""
        for each in self.found:
            if isinstance(each.op, DecidedWriteOp):
                decided, each.plan = each.op.decide(each.items, each.loaded)
                each.set_results(decided, self.results)


def _disk_almost_full() -> StoreUnavailable:
    return StoreUnavailable("The disk is almost full.", remedy="Make room: writes resume by themselves.")


def _begin(connection: sqlite3.Connection, transaction: _Transaction) -> None:
    for statement in transaction.settings:
        connection.execute(statement)
    if not transaction.is_durable:
        connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")


def _begin_at_once(connection: sqlite3.Connection, transaction: _Transaction) -> bool:
    """Begin the transaction. Return False if another process is writing to the file, which can take seconds."""
    try:
        _begin(connection, transaction)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _load(connection: sqlite3.Connection, transaction: _Transaction) -> None:
    for each in transaction.found:
        if isinstance(each.op, DecidedWriteOp):
            each.loaded = each.op.load(connection, each.items)


def _write(connection: sqlite3.Connection, transaction: _Transaction) -> None:
    for each in transaction.found:
        match each.op:
            case DecidedWriteOp(write=write_plan):
                write_plan(connection, each.plan)
            case WriteOp(write=write):
                each.set_results(write(connection, each.items), transaction.results)


def _commit(
    connection: sqlite3.Connection, after_commit: Callable[[sqlite3.Connection], None], *, is_durable: bool
) -> None:
    connection.execute("COMMIT")
    if not is_durable:
        connection.execute("PRAGMA synchronous = FULL")
    after_commit(connection)


def _begin_and_load(connection: sqlite3.Connection, transaction: _Transaction) -> None:
    _begin(connection, transaction)
    _load(connection, transaction)


def _write_and_commit(
    connection: sqlite3.Connection, transaction: _Transaction, after_commit: Callable[[sqlite3.Connection], None]
) -> None:
    _write(connection, transaction)
    _commit(connection, after_commit, is_durable=transaction.is_durable)


def _write_alone(
    connection: sqlite3.Connection, transaction: _Transaction, after_commit: Callable[[sqlite3.Connection], None]
) -> None:
    _begin(connection, transaction)
    _write_and_commit(connection, transaction, after_commit)


def _roll_back(connection: sqlite3.Connection) -> None:
    # If the disk was full, SQLite has already rolled back.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("PRAGMA synchronous = FULL")
