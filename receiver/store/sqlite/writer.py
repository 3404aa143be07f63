"""The one writer: what waits at the same time is written in one transaction, and each caller goes on after its commit.

A commit costs the same for one row and for a hundred, so under load the groups grow by themselves and the cost
per call falls. One task owns the connection's transactions; a caller that is cancelled only stops waiting.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import structlog

from receiver.domain.errors import StoreBroken, StoreUnavailable
from receiver.store.sqlite.database import ConnectionThread, Health

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")

_MAX_GROUP_SIZE = 256

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ItemError:
    """What one item's own code raised: its caller gets the error, the rest of the group goes on."""

    error: Exception


@dataclass(frozen=True, slots=True, eq=False)
class WriteOp(Generic[Item, Result]):
    """One kind of write, done for all items of a group by the same few statements.

    ``write`` runs in the writer's thread, inside the transaction, and gives one result per item, or why it got none.
    ``grows`` says that it takes room on the disk, so that it is refused first when room is short.
    """

    write: Callable[[sqlite3.Connection, Sequence[Item]], Sequence[Result | ItemError]]
    uses_disk: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class DecidedWriteOp(Generic[Item, Seen, Plan, Result]):
    """A kind of write that asks callers' code what to write, on the event loop and inside the transaction.

    ``look`` reads what the judging needs, ``judge`` gives the results and a plan, ``write`` carries the plan out.
    """

    load: Callable[[sqlite3.Connection, Sequence[Item]], Seen]
    decide: Callable[[Sequence[Item], Seen], tuple[Sequence[Result | ItemError], Plan]]
    write: Callable[[sqlite3.Connection, Plan], None]
    uses_disk: bool = True


# A group holds many kinds of items at once; which belongs to which work is known to `Writer.do` alone.
AnyWriteOp: TypeAlias = WriteOp[Any, Any] | DecidedWriteOp[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """One caller's item on its way through a group."""

    op: AnyWriteOp
    item: Any
    future: asyncio.Future[Any]

    def resolve(self, result: object) -> None:
        """Wake the caller with a result, or with an error, if it still waits."""
        if self.future.done():
            return
        match result:
            case ItemError(error=error):
                self.future.set_exception(error)
            case _:
                self.future.set_result(result)


class Writer:
    """Groups the writes of many callers into transactions on one connection.

    ``after_commit`` may raise StoreBroken and nothing else: by then the group is written.
    """

    def __init__(
        self,
        thread: ConnectionThread,
        health: Health,
        *,
        has_space: Callable[[], bool],
        after_commit: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._thread = thread
        self._health = health
        self._has_space = has_space
        self._after_commit = after_commit
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._transaction_lock = asyncio.Lock()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="store-writer")

    async def execute(self, op: WriteOp[Item, Result] | DecidedWriteOp[Item, Seen, Plan, Result], item: Item) -> Result:
        """Have *item* written and give its result, once it is committed.

        Raises StoreUnavailable or StoreBroken, or what the item itself brought about; then nothing of it is written,
        or the store broke meanwhile, and nothing of it may be acknowledged.
        """
        self._health.check()
        if self._closing or self._task.done():
            raise StoreUnavailable("The store is closed.")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(op, item, answer))
        self._wake.set()
        written = await answer
        self._health.check()  # a reader may have met the damage since the commit
        return written

    async def run_exclusive(self, function: Callable[[sqlite3.Connection], Done]) -> Done:
        """Do something with the connection that cannot be part of a transaction, between two of them."""
        self._health.check()
        async with self._transaction_lock:
            if self._closing or self._task.done():
                raise StoreUnavailable("The store is closed.")
            return await self._thread.run(function)

    async def aclose(self) -> None:
        """Write what still waits, then stop."""
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
                    # Whoever was just woken gets to hand in what it wants next, so that it is in the next group.
                    await asyncio.sleep(0)
        except Exception as exc:
            self._health.classify(StoreBroken(f"The store's writer failed: {exc!r}."))
            raise
        finally:
            self._reject_unwritten(self._pending)

    def _next_group(self) -> list[_Pending]:
        count = min(len(self._pending), _MAX_GROUP_SIZE)
        calls = [self._pending.popleft() for _ in range(count)]
        if any(call.op.uses_disk for call in calls) and not self._has_space():
            for call in calls:
                if call.op.uses_disk:
                    call.resolve(ItemError(_disk_almost_full()))
        return [call for call in calls if not call.future.done()]

    async def _process_group(self, group: list[_Pending]) -> None:
        """Write a group, or each of it alone where one of them spoils it; nobody is left without an answer."""
        try:
            try:
                self._health.check()
                results = await self._transact(group)
            except Exception as exc:  # noqa: BLE001 -- whatever went wrong, the callers are told it
                await self._fail_group(group, self._health.classify(exc))
            else:
                for call, result in zip(group, results, strict=True):
                    call.resolve(result)
        except BaseException:
            self._reject_unwritten(group)
            raise

    async def _fail_group(self, group: list[_Pending], error: Exception) -> None:
        if len(group) > 1 and not isinstance(error, StoreUnavailable | StoreBroken):
            for call in group:
                await self._process_group([call])
            return
        for call in group:
            call.resolve(ItemError(error))

    async def _transact(self, group: list[_Pending]) -> list[object]:
        """Carry out a group between one BEGIN and one COMMIT.

        Judged work comes first: it judged what it saw, so nothing may write between its look and its write.
        """
        batches = sorted(_op_groups(group), key=lambda batch: not batch.needs_decision)
        results: list[object] = [None] * len(group)
        try:
            begun = batches[0].needs_decision
            if begun:
                await self._thread.run(_begin_and_load, batches)
                for batch in batches:
                    batch.decide(results)
            await self._thread.run(_write_and_commit, batches, results, self._after_commit, begun=begun)
        except BaseException:
            await self._thread.run(_roll_back)
            raise
        return results

    def _reject_unwritten(self, calls: Iterable[_Pending]) -> None:
        for call in calls:
            call.resolve(ItemError(StoreUnavailable("The store was closed before it could do it.")))


def _disk_almost_full() -> StoreUnavailable:
    return StoreUnavailable("The disk is almost full.", remedy="Make room: writes resume by themselves.")


@dataclass(slots=True, eq=False)
class _OpGroup:
    """The items of one work in a group, and their places in it."""

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
            judged, self.plan = self.op.decide(self.items, self.loaded)
            self._set_results(judged, results)

    def write(self, connection: sqlite3.Connection, results: list[object]) -> None:
        match self.op:
            case DecidedWriteOp(write=carry_out):
                carry_out(connection, self.plan)
            case WriteOp(write=write):
                self._set_results(write(connection, self.items), results)

    def _set_results(self, values: Sequence[object], results: list[object]) -> None:
        for place, result in zip(self.positions, values, strict=True):
            results[place] = result


def _op_groups(group: list[_Pending]) -> list[_OpGroup]:
    batches: dict[AnyWriteOp, _OpGroup] = {}
    for place, call in enumerate(group):
        batch = batches.setdefault(call.op, _OpGroup(call.op, [], []))
        batch.items.append(call.item)
        batch.positions.append(place)
    return list(batches.values())


def _begin_and_load(connection: sqlite3.Connection, op_groups: Sequence[_OpGroup]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for batch in op_groups:
        batch.load(connection)


def _write_and_commit(
    connection: sqlite3.Connection,
    op_groups: Sequence[_OpGroup],
    results: list[object],
    after_commit: Callable[[sqlite3.Connection], None],
    *,
    begun: bool,
) -> None:
    if not begun:
        connection.execute("BEGIN IMMEDIATE")
    for batch in op_groups:
        batch.write(connection, results)
    connection.execute("COMMIT")
    after_commit(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite itself has rolled back where the disk was full.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
