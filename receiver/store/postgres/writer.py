"""The only writer of a node: pending writes share one transaction, and each caller resumes after the commit.

A commit costs the same for one row and for a hundred. Under load the groups grow, so the cost per call falls.
Other nodes write at the same time: rows are locked before a decision about them, in the order of their ids.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import asyncpg
import msgspec

from receiver.domain.errors import StoreBroken, StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.store.item_error import ItemError
from receiver.store.postgres.database import Connection, Connections, Health, Outage, discard
from receiver.store.postgres.errors import is_repeatable

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")

_MAX_GROUP_SIZE = 256
_MAX_REPEATS = 10

# A node that stops between two statements must not keep its locks: other nodes wait for them.
_BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '4s'"
_BEGIN_WITHOUT_SYNC = f"{_BEGIN}; SET LOCAL synchronous_commit = off"


@dataclass(frozen=True, slots=True, eq=False)
class WriteOp(Generic[Item, Result]):
    """One kind of write, which handles all items of a group with the same few statements.

    ``write`` runs inside the transaction and returns one result or ItemError per item. It may be called again with the
    same items if another node's transaction was in the way.
    ``is_durable``: the write must survive a power cut. A group without such a write does not wait for the disk.
    ``write_alone``: writes a group of nothing else outside a transaction, with one statement instead of BEGIN, several
    and COMMIT; it returns None and writes nothing if it cannot. It may be called again after it has written.
    """

    write: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[Result | ItemError]]]
    is_durable: bool = True
    write_alone: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[Result] | None]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecidedWriteOp(Generic[Item, Seen, Plan, Result]):
    """A kind of write whose content the caller's code decides, inside the transaction.

    ``load`` reads and locks what the decision needs. ``decide`` returns the results and a plan. ``write`` executes the
    plan. All three may be called again.
    """

    load: Callable[[Connection, Sequence[Item]], Awaitable[Seen]]
    decide: Callable[[Sequence[Item], Seen], tuple[Sequence[Result | ItemError], Plan]]
    write: Callable[[Connection, Plan], Awaitable[None]]
    is_durable: bool = True


# A group contains items of many types; only `Writer.execute` knows the item type of each operation.
AnyWriteOp: TypeAlias = WriteOp[Any, Any] | DecidedWriteOp[Any, Any, Any, Any]


class _Pending(msgspec.Struct, eq=False):
    """One caller's item, and the future of its result."""

    op: AnyWriteOp
    item: Any
    future: asyncio.Future[Any]

    def resolve(self, result: object) -> None:
        """Wake the caller with a result or an error, unless it was cancelled."""
        if self.future.done():
            return
        match result:
            case ItemError(error=error):
                self.future.set_exception(error)
            case _:
                self.future.set_result(result)


class _UncertainCommit(StoreUnavailable):
    """The connection was lost during a COMMIT: it may have happened, so the transaction must not be repeated."""


class Writer:
    """Groups the writes of many callers into transactions."""

    def __init__(self, connections: Connections, health: Health, *, metrics: Metrics | None = None) -> None:
        self._connections = connections
        self._health = health
        self._metrics = metrics or Metrics()
        self._outage = Outage()
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="store-writer")

    async def execute(self, op: WriteOp[Item, Result] | DecidedWriteOp[Item, Seen, Plan, Result], item: Item) -> Result:
        """Write *item* and return its result after the commit.

        Raises StoreUnavailable, StoreBroken or the error of the item itself. Then nothing of it may be acknowledged.
        After StoreUnavailable it may have been written, if the connection was lost during the commit.
        """
        self._health.check()
        if self._closing or self._task.done():
            raise StoreUnavailable("The store is closed.")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(op, item, future))
        self._wake.set()
        result = await future
        self._health.check()  # a reader may have found damage since the commit
        return result

    async def run_alone(self, function: Callable[[Connection], Awaitable[Done]]) -> Done:
        """Call *function* outside a transaction, for work that cannot be part of one."""
        return await self._connections.read(function)

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
                    await self._process_group(self._next_group())
                    # Let the callers that were just woken submit their next write, so that the next group has it.
                    await asyncio.sleep(0)
        except Exception as exc:
            self._health.classify(StoreBroken(f"The store's writer failed: {exc!r}."))
            raise
        finally:
            self._reject_unwritten(self._pending)

    def _next_group(self) -> list[_Pending]:
        count = min(len(self._pending), _MAX_GROUP_SIZE)
        calls = [self._pending.popleft() for _ in range(count)]
        return [call for call in calls if not call.future.done()]

    async def _process_group(self, group: list[_Pending]) -> None:
        """Write a group; if one item makes it fail, write each item alone. Every caller gets a result or an error."""
        if not group:
            return
        try:
            try:
                self._health.check()
                results = await self._transact_until_done(group)
            except Exception as exc:  # noqa: BLE001 -- every error is passed on to the callers
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

    async def _transact_until_done(self, group: list[_Pending]) -> list[object]:
        """Write a group; repeat it after an outage or another transaction in the way, if it was surely not written."""
        repeats = 0
        while True:
            try:
                results = await self._transact(group)
            except Exception as exc:
                if is_repeatable(exc) and repeats < _MAX_REPEATS:
                    repeats += 1
                    continue
                error = self._health.classify(exc)
                lost = isinstance(error, StoreUnavailable) and not isinstance(error, _UncertainCommit)
                if not lost or not await self._outage.wait(error):
                    raise
            else:
                self._outage.end()
                return results

    async def _transact(self, group: list[_Pending]) -> list[object]:
        """Write a group, if it needs more than one statement between one BEGIN and one COMMIT.

        Decided operations come first: nothing may be written between their load and their write.
        """
        op_groups = sorted(_op_groups(group), key=lambda op_group: not op_group.needs_decision)
        results: list[object] = [None] * len(group)
        began = time.perf_counter()
        async with self._connections.connection() as connection:
            if len(op_groups) != 1 or not await op_groups[0].write_alone(connection, results):
                await _write_in_transaction(connection, op_groups, results)
        self._metrics.store_commit_seconds.observe(time.perf_counter() - began)
        self._metrics.store_group_size.observe(len(group))
        return results

    def _reject_unwritten(self, calls: Iterable[_Pending]) -> None:
        for call in calls:
            call.resolve(ItemError(StoreUnavailable("The store was closed before the write.")))


async def _write_in_transaction(connection: Connection, op_groups: "Sequence[_OpGroup]", results: list[object]) -> None:
    is_durable = any(op_group.op.is_durable for op_group in op_groups)
    await connection.execute(_BEGIN if is_durable else _BEGIN_WITHOUT_SYNC)
    try:
        for op_group in op_groups:
            await op_group.load(connection)
        for op_group in op_groups:
            op_group.decide(results)
        for op_group in op_groups:
            await op_group.write(connection, results)
    except Exception:
        await _roll_back(connection)
        raise
    await _commit(connection)


async def _commit(connection: Connection) -> None:
    """Commit. Raises _UncertainCommit if the outcome is unknown."""
    try:
        await connection.execute("COMMIT")
    except asyncpg.PostgresError as exc:
        if is_repeatable(exc) or isinstance(exc, asyncpg.IntegrityConstraintViolationError):
            raise
        raise _uncertain(exc) from exc
    except Exception as exc:
        raise _uncertain(exc) from exc


def _uncertain(exc: Exception) -> _UncertainCommit:
    return _UncertainCommit(
        f"The connection to PostgreSQL was lost during a commit: {exc}.", remedy="Repeat the request."
    )


async def _roll_back(connection: Connection) -> None:
    """End the transaction. A connection that cannot do so is replaced."""
    try:
        await connection.execute("ROLLBACK")
    except Exception:  # noqa: BLE001 -- the error that led here is the one to report
        discard(connection)


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

    async def write_alone(self, connection: Connection, results: list[object]) -> bool:
        """Write outside a transaction; return False if the operation cannot."""
        if isinstance(self.op, DecidedWriteOp) or self.op.write_alone is None:
            return False
        written = await self.op.write_alone(connection, self.items)
        if written is not None:
            self._set_results(written, results)
        return written is not None

    async def load(self, connection: Connection) -> None:
        if isinstance(self.op, DecidedWriteOp):
            self.loaded = await self.op.load(connection, self.items)

    def decide(self, results: list[object]) -> None:
        if isinstance(self.op, DecidedWriteOp):
            decided, self.plan = self.op.decide(self.items, self.loaded)
            self._set_results(decided, results)

    async def write(self, connection: Connection, results: list[object]) -> None:
        match self.op:
            case DecidedWriteOp(write=write_plan):
                await write_plan(connection, self.plan)
            case WriteOp(write=write):
                self._set_results(await write(connection, self.items), results)

    def _set_results(self, values: Sequence[object], results: list[object]) -> None:
        for position, result in zip(self.positions, values, strict=True):
            results[position] = result


def _op_groups(group: list[_Pending]) -> list[_OpGroup]:
    op_groups: dict[AnyWriteOp, _OpGroup] = {}
    for position, call in enumerate(group):
        op_group = op_groups.setdefault(call.op, _OpGroup(call.op, [], []))
        op_group.items.append(call.item)
        op_group.positions.append(position)
    return list(op_groups.values())
