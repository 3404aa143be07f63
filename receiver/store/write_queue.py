"""The queue before a store's writer: pending writes are written in groups, and each caller resumes after its commit.

A commit costs the same for one row and for a hundred. Under load the groups grow, so the cost per call falls.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from receiver.domain.errors import StoreBroken, StoreUnavailable
from receiver.store.item_error import ItemError

Op = TypeVar("Op")

_MAX_GROUP_SIZE = 256
_GATHERING_TURNS = 8
"""Turns of the event loop that calls may wait for as many others as the last group had. That is less than 1 ms."""


class PendingWrite(msgspec.Struct, eq=False):
    """One caller's items, and the future of their results."""

    op: Any
    items: Sequence[Any]
    future: asyncio.Future[Sequence[Any]]

    def resolve(self, results: Sequence[object]) -> None:
        """Wake the caller with a result or an ItemError per item, unless it was cancelled."""
        if not self.future.done():
            self.future.set_result(results)

    def fail(self, error: Exception) -> None:
        """Wake the caller with the same error for each item."""
        self.resolve([ItemError(error)] * len(self.items))


class StoreHealth(Protocol):
    """Whether the store is broken, and what an error means to it."""

    def check(self) -> None:
        """Raise StoreBroken if the store is broken."""
        ...

    def classify(self, exc: Exception) -> Exception:
        """Translate an error of the database."""
        ...


Transact = Callable[[Sequence[PendingWrite]], Awaitable[Sequence[object]]]
"""Write a group in one transaction; return a result or an ItemError for each item, in their order."""


class WriteQueue:
    """Passes groups of pending writes to *transact*, one after the other."""

    def __init__(
        self,
        transact: Transact,
        health: StoreHealth,
        *,
        refuse: Callable[[Sequence[PendingWrite]], None] = lambda _: None,
        groups: Callable[[Any], bool] = lambda _op: True,
        mixes: Callable[[Any], bool] = lambda _op: True,
    ) -> None:
        """*refuse* fails those of a new group that must not be written now.

        A group has one call, or several of one operation that *groups* permits, or of several that *mixes* permits.
        """
        self._transact = transact
        self._health = health
        self._refuse = refuse
        self._groups = groups
        self._mixes = mixes
        self._pending: deque[PendingWrite] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="store-writer")

    async def write(self, op: object, items: Sequence[object]) -> Sequence[Any]:
        """Write *items*, at least one, and return a result or an error for each after the commit.

        Raises StoreUnavailable, StoreBroken.
        """
        self._health.check()
        self.require_open()
        future: asyncio.Future[Sequence[Any]] = asyncio.get_running_loop().create_future()
        self._pending.append(PendingWrite(op, items, future))
        self._wake.set()
        results = await future
        self._health.check()  # a reader may have found damage since the commit
        return results

    def require_open(self) -> None:
        """Raise StoreUnavailable once the queue is being closed."""
        if self._closing or self._task.done():
            raise StoreUnavailable("The store is closed.")

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
                        await self._process_group(group)
                    await self._gather(sum(len(call.items) for call in group))
        except Exception as exc:
            self._health.classify(StoreBroken(f"The store's writer failed: {exc!r}."))
            raise
        finally:
            _reject_unwritten(self._pending)

    async def _gather(self, size: int) -> None:
        """Let the callers that were just woken submit their next writes, so that the next group has them.

        A call that came meanwhile would else be a group of its own. Then all others are the next group, and so on: two
        commits for each round of callers, and the writer's thread competes with the event loop.
        """
        for _ in range(_GATHERING_TURNS):
            await asyncio.sleep(0)
            if not self._pending or sum(len(call.items) for call in self._pending) >= size:
                return

    def _next_group(self) -> list[PendingWrite]:
        calls: list[PendingWrite] = []
        size = 0
        while self._pending and size < _MAX_GROUP_SIZE and self._goes_with(calls, self._pending[0].op):
            calls.append(self._pending.popleft())
            size += len(calls[-1].items)
        self._refuse(calls)
        return [call for call in calls if not call.future.done()]

    def _goes_with(self, calls: Sequence[PendingWrite], op: object) -> bool:
        if not calls:
            return True
        first = calls[0].op
        return self._groups(op) if first is op else self._mixes(first) and self._mixes(op)

    async def _process_group(self, group: Sequence[PendingWrite]) -> None:
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
            _reject_unwritten(group)
            raise

    async def _fail_group(self, group: Sequence[PendingWrite], error: Exception) -> None:
        is_general = isinstance(error, StoreUnavailable | StoreBroken)
        for call in group:
            if is_general or (len(group) == 1 and len(call.items) == 1):
                call.fail(error)
            else:
                await self._write_each(call)

    async def _write_each(self, call: PendingWrite) -> None:
        """Write each item of a call alone."""
        alone = [PendingWrite(call.op, (item,), asyncio.get_running_loop().create_future()) for item in call.items]
        for each in alone:
            await self._process_group([each])
        call.resolve([each.future.result()[0] for each in alone])


def _reject_unwritten(calls: Iterable[PendingWrite]) -> None:
    for call in calls:
        call.fail(StoreUnavailable("The store was closed before the write."))


class OpGroup(msgspec.Struct, Generic[Op], eq=False):
    """The items of one operation in a group, and the positions of their results."""

    op: Op
    items: list[Any]
    positions: list[int]
    loaded: Any = None
    plan: Any = None

    def set_results(self, values: Sequence[object], results: list[object]) -> None:
        """Put the results of this operation's items among those of the group."""
        for position, result in zip(self.positions, values, strict=True):
            results[position] = result


def op_groups(group: Iterable[PendingWrite]) -> Sequence[OpGroup[Any]]:
    """Return the items of a group by operation, in the order of their first items."""
    found: dict[Any, OpGroup[Any]] = {}
    position = 0
    for call in group:
        op_group = found.setdefault(call.op, OpGroup(call.op, [], []))
        op_group.items += call.items
        op_group.positions += range(position, position := position + len(call.items))
    return list(found.values())
