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
from receiver.store.sqlite.database import Health, Lane

Item = TypeVar("Item")
Result = TypeVar("Result")
Seen = TypeVar("Seen")
Plan = TypeVar("Plan")
Done = TypeVar("Done")

_GROUP = 256

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Raised:
    """What one item's own code raised: its caller gets the error, the rest of the group goes on."""

    error: Exception


@dataclass(frozen=True, slots=True, eq=False)
class Work(Generic[Item, Result]):
    """One kind of write, done for all items of a group by the same few statements.

    ``write`` runs in the writer's thread, inside the transaction, and gives one result per item, or why it got none.
    ``grows`` says that it takes room on the disk, so that it is refused first when room is short.
    """

    write: Callable[[sqlite3.Connection, Sequence[Item]], Sequence[Result | Raised]]
    grows: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class JudgedWork(Generic[Item, Seen, Plan, Result]):
    """A kind of write that asks callers' code what to write, on the event loop and inside the transaction.

    ``look`` reads what the judging needs, ``judge`` gives the results and a plan, ``write`` carries the plan out.
    """

    look: Callable[[sqlite3.Connection, Sequence[Item]], Seen]
    judge: Callable[[Sequence[Item], Seen], tuple[Sequence[Result | Raised], Plan]]
    write: Callable[[sqlite3.Connection, Plan], None]
    grows: bool = True


# A group holds many kinds of items at once; which belongs to which work is known to `Writer.do` alone.
AnyWork: TypeAlias = Work[Any, Any] | JudgedWork[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One caller's item on its way through a group."""

    work: AnyWork
    item: Any
    answer: asyncio.Future[Any]

    def resolve(self, result: object) -> None:
        """Wake the caller with a result, or with an error, if it still waits."""
        if self.answer.done():
            return
        match result:
            case Raised(error=error):
                self.answer.set_exception(error)
            case _:
                self.answer.set_result(result)


class Writer:
    """Groups the writes of many callers into transactions on one connection.

    ``after_commit`` may raise StoreBroken and nothing else: by then the group is written.
    """

    def __init__(
        self,
        lane: Lane,
        health: Health,
        *,
        has_room: Callable[[], bool],
        after_commit: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._lane = lane
        self._health = health
        self._has_room = has_room
        self._after_commit = after_commit
        self._waiting: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="store-writer")

    async def do(self, work: Work[Item, Result] | JudgedWork[Item, Seen, Plan, Result], item: Item) -> Result:
        """Have *item* written and give its result, once it is committed.

        Raises StoreUnavailable or StoreBroken, or what the item itself brought about; then nothing of it is written,
        or the store broke meanwhile, and nothing of it may be acknowledged.
        """
        self._health.check()
        if self._closing or self._task.done():
            raise StoreUnavailable("The store is closed.")
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(work, item, answer))
        self._wake.set()
        written = await answer
        self._health.check()  # a reader may have met the damage since the commit
        return written

    async def between(self, chore: Callable[[sqlite3.Connection], Done]) -> Done:
        """Do something with the connection that cannot be part of a transaction, between two of them."""
        self._health.check()
        async with self._turn:
            if self._closing or self._task.done():
                raise StoreUnavailable("The store is closed.")
            return await self._lane.run(chore)

    async def aclose(self) -> None:
        """Write what still waits, then stop."""
        self._closing = True
        self._wake.set()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        try:
            while self._waiting or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    group = self._next_group()
                    if group:
                        async with self._turn:
                            await self._settle(group)
                    # Whoever was just woken gets to hand in what it wants next, so that it is in the next group.
                    await asyncio.sleep(0)
        except Exception as exc:
            self._health.diagnose(StoreBroken(f"The store's writer failed: {exc!r}."))
            raise
        finally:
            self._abandon(self._waiting)

    def _next_group(self) -> list[_Call]:
        count = min(len(self._waiting), _GROUP)
        calls = [self._waiting.popleft() for _ in range(count)]
        if any(call.work.grows for call in calls) and not self._has_room():
            for call in calls:
                if call.work.grows:
                    call.resolve(Raised(_almost_full()))
        return [call for call in calls if not call.answer.done()]

    async def _settle(self, group: list[_Call]) -> None:
        """Write a group, or each of it alone where one of them spoils it; nobody is left without an answer."""
        try:
            try:
                self._health.check()
                results = await self._transact(group)
            except Exception as exc:  # noqa: BLE001 -- whatever went wrong, the callers are told it
                await self._refuse(group, self._health.diagnose(exc))
            else:
                for call, result in zip(group, results, strict=True):
                    call.resolve(result)
        except BaseException:
            self._abandon(group)
            raise

    async def _refuse(self, group: list[_Call], fault: Exception) -> None:
        if len(group) > 1 and not isinstance(fault, StoreUnavailable | StoreBroken):
            for call in group:
                await self._settle([call])
            return
        for call in group:
            call.resolve(Raised(fault))

    async def _transact(self, group: list[_Call]) -> list[object]:
        """Carry out a group between one BEGIN and one COMMIT.

        Judged work comes first: it judged what it saw, so nothing may write between its look and its write.
        """
        batches = sorted(_batches(group), key=lambda batch: not batch.is_judged)
        results: list[object] = [None] * len(group)
        try:
            begun = batches[0].is_judged
            if begun:
                await self._lane.run(_begin_and_look, batches)
                for batch in batches:
                    batch.judge(results)
            await self._lane.run(_write_and_commit, batches, results, self._after_commit, begun=begun)
        except BaseException:
            await self._lane.run(_roll_back)
            raise
        return results

    def _abandon(self, calls: Iterable[_Call]) -> None:
        for call in calls:
            call.resolve(Raised(StoreUnavailable("The store was closed before it could do it.")))


def _almost_full() -> StoreUnavailable:
    return StoreUnavailable("The disk is almost full.", remedy="Make room: writes resume by themselves.")


@dataclass(slots=True, eq=False)
class _Batch:
    """The items of one work in a group, and their places in it."""

    work: AnyWork
    items: list[Any]
    places: list[int]
    seen: Any = None
    plan: Any = None

    @property
    def is_judged(self) -> bool:
        return isinstance(self.work, JudgedWork)

    def look(self, connection: sqlite3.Connection) -> None:
        if isinstance(self.work, JudgedWork):
            self.seen = self.work.look(connection, self.items)

    def judge(self, results: list[object]) -> None:
        if isinstance(self.work, JudgedWork):
            judged, self.plan = self.work.judge(self.items, self.seen)
            self._give(judged, results)

    def write(self, connection: sqlite3.Connection, results: list[object]) -> None:
        match self.work:
            case JudgedWork(write=carry_out):
                carry_out(connection, self.plan)
            case Work(write=write):
                self._give(write(connection, self.items), results)

    def _give(self, given: Sequence[object], results: list[object]) -> None:
        for place, result in zip(self.places, given, strict=True):
            results[place] = result


def _batches(group: list[_Call]) -> list[_Batch]:
    batches: dict[AnyWork, _Batch] = {}
    for place, call in enumerate(group):
        batch = batches.setdefault(call.work, _Batch(call.work, [], []))
        batch.items.append(call.item)
        batch.places.append(place)
    return list(batches.values())


def _begin_and_look(connection: sqlite3.Connection, batches: Sequence[_Batch]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for batch in batches:
        batch.look(connection)


def _write_and_commit(
    connection: sqlite3.Connection,
    batches: Sequence[_Batch],
    results: list[object],
    after_commit: Callable[[sqlite3.Connection], None],
    *,
    begun: bool,
) -> None:
    if not begun:
        connection.execute("BEGIN IMMEDIATE")
    for batch in batches:
        batch.write(connection, results)
    connection.execute("COMMIT")
    after_commit(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite itself has rolled back where the disk was full.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
