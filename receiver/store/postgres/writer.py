"""A writer of a node: pending writes share one transaction, and each caller resumes after the commit.

Other nodes write at the same time. Four rules prevent that two transactions wait for each other in a circle:

- Rows are locked before a decision about them: tasks, then events, then deliveries, each in the order of their ids.
- The lock of the events' order comes after these rows. Its holder waits for no row that is not locked under it.
- A transaction has one call. Busy operations share transactions: they lock the rows of all calls in one order.
- A write that can be made later skips rows that are held: claims, and the deletion of old data.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import asyncpg
import msgspec

from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.store.item_error import ItemError
from receiver.store.postgres.database import Connection, Connections, Health, Outage, discard
from receiver.store.postgres.errors import is_repeatable
from receiver.store.write_queue import OpGroup, PendingWrite, WriteQueue, op_groups

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")

_MAX_REPEATS = 10

# A node that stops between two statements must not keep its locks: other nodes wait for them.
_BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '4s'"
_BEGIN_WITHOUT_SYNC = f"{_BEGIN}; SET LOCAL synchronous_commit = off"


class WriteOp(msgspec.Struct, Generic[Item, Result], frozen=True, eq=False):
    """One kind of write, which handles all items of a group with the same few statements.

    ``write`` runs inside the transaction and returns one result or ItemError per item. It may be called again with the
    same items if another node's transaction was in the way.
    ``is_durable``: the write must survive a power cut. A group without such a write does not wait for the disk.
    ``groups``: calls may share a transaction. The write locks what all of them need in one order.
    ``mixes``: they may also share it with other operations that mix. The write waits for no rows that other
    transactions hold while they wait for the order of events.
    ``skips_locked``: the write waits for no rows at all, so it comes last in a transaction.
    ``write_alone``: writes a group of nothing else outside a transaction, with one statement instead of BEGIN, several
    and COMMIT; it returns None and writes nothing if it cannot. It may be called again after it has written.
    """

    write: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[Result | ItemError]]]
    is_durable: bool = True
    groups: bool = False
    mixes: bool = False
    skips_locked: bool = False
    write_alone: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[Result] | None]] | None = None


class DecidedWriteOp(msgspec.Struct, Generic[Item, Seen, Plan, Result], frozen=True, eq=False):
    """A kind of write whose content the caller's code decides, inside the transaction.

    ``load`` reads and locks what the decision needs. ``decide`` returns the results and a plan. ``write`` executes the
    plan. All three may be called again.
    """

    load: Callable[[Connection, Sequence[Item]], Awaitable[Seen]]
    decide: Callable[[Sequence[Item], Seen], tuple[Sequence[Result | ItemError], Plan]]
    write: Callable[[Connection, Plan], Awaitable[None]]
    is_durable: bool = True
    groups: bool = False
    mixes: bool = False


# A group contains items of many types; only `Writer.execute` knows the item type of each operation.
AnyWriteOp: TypeAlias = WriteOp[Any, Any] | DecidedWriteOp[Any, Any, Any, Any]


class _UncertainCommit(StoreUnavailable):
    """The connection was lost during a COMMIT: it may have happened, so the transaction must not be repeated."""


class Writer:
    """Groups the writes of many callers into transactions."""

    def __init__(
        self, connections: Connections, health: Health, *, is_pooled: bool = False, metrics: Metrics | None = None
    ) -> None:
        """*is_pooled*: the connections are a pooler's, which has its own settings for plans."""
        self._connections = connections
        self._is_pooled = is_pooled
        self._health = health
        self._metrics = metrics or Metrics()
        self._outage = Outage()
        self._queue = WriteQueue(
            self._transact_until_done, health, groups=lambda op: bool(op.groups), mixes=lambda op: bool(op.mixes)
        )

    async def execute(self, op: WriteOp[Item, Result] | DecidedWriteOp[Item, Seen, Plan, Result], item: Item) -> Result:
        """Write *item* and return its result after the commit.

        Raises StoreUnavailable, StoreBroken or the error of the item itself. Then nothing of it may be acknowledged.
        After StoreUnavailable it may have been written, if the connection was lost during the commit.
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

    async def run_alone(self, function: Callable[[Connection], Awaitable[Done]]) -> Done:
        """Call *function* outside a transaction, for work that cannot be part of one."""
        return await self._connections.read(function)

    async def aclose(self) -> None:
        """Write what is pending, then stop."""
        await self._queue.aclose()

    async def _transact_until_done(self, group: Sequence[PendingWrite]) -> Sequence[object]:
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

    async def _transact(self, group: Sequence[PendingWrite]) -> Sequence[object]:
        """Write a group, if it needs more than one statement between one BEGIN and one COMMIT.

        Decided operations come first: nothing may be written between their load and their write.
        """
        found = sorted(op_groups(group), key=lambda each: _place(each.op))
        results: list[object] = [None] * sum(len(each.items) for each in found)
        began = time.perf_counter()
        async with self._connections.connection() as connection:
            # With a pooler's plans, one statement may lock the rows of several items in any order.
            may_be_alone = len(found) == 1 and not (self._is_pooled and len(results) > 1)
            if not may_be_alone or not await _write_alone(connection, found[0], results):
                await _write_in_transaction(connection, found, results)
        self._metrics.store_commit_seconds.observe(time.perf_counter() - began)
        self._metrics.store_group_size.observe(len(results))
        return results


def _place(op: AnyWriteOp) -> int:
    """Return the place of an operation among those of a transaction."""
    if isinstance(op, DecidedWriteOp):
        return 0
    return 2 if op.skips_locked else 1


async def _write_in_transaction(
    connection: Connection, found: Sequence[OpGroup[AnyWriteOp]], results: list[object]
) -> None:
    await connection.execute(_BEGIN if any(each.op.is_durable for each in found) else _BEGIN_WITHOUT_SYNC)
    try:
        for each in found:
            if isinstance(each.op, DecidedWriteOp):
                each.loaded = await each.op.load(connection, each.items)
        for each in found:
            if isinstance(each.op, DecidedWriteOp):
                decided, each.plan = each.op.decide(each.items, each.loaded)
                each.set_results(decided, results)
        for each in found:
            match each.op:
                case DecidedWriteOp(write=write_plan):
                    await write_plan(connection, each.plan)
                case WriteOp(write=write):
                    each.set_results(await write(connection, each.items), results)
    except Exception:
        await _roll_back(connection)
        raise
    await _commit(connection)


async def _write_alone(connection: Connection, only: OpGroup[AnyWriteOp], results: list[object]) -> bool:
    """Write outside a transaction; return False if the operation cannot."""
    if isinstance(only.op, DecidedWriteOp) or only.op.write_alone is None:
        return False
    written = await only.op.write_alone(connection, only.items)
    if written is not None:
        only.set_results(written, results)
    return written is not None


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
