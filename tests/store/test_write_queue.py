"""How calls share a transaction: those that come back together stay together, and a lone one starts at once."""

import asyncio
from collections.abc import Sequence

from receiver.store.write_queue import PendingWrite, WriteQueue


class Transactions:
    """Records the sizes of groups. Each waits until the test ends it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._end = asyncio.Event()

    async def __call__(self, group: Sequence[PendingWrite]) -> Sequence[object]:
        items = [item for call in group for item in call.items]
        self.sizes.append(len(items))
        await self._end.wait()
        self._end.clear()
        return items

    def check(self) -> None:
        """Report no fault."""

    def classify(self, exc: Exception) -> Exception:
        return exc

    async def end_one(self) -> None:
        """End the running transaction, and wait until its callers have their results and the next one has begun."""
        self._end.set()
        await turns(20)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def write_again_and_again(queue: WriteQueue, item: int) -> None:
    """Write an item, and some turns of the loop later the next one: as a client that gets its answer and posts."""
    while True:
        await queue.write("op", [item])
        await turns(3)


async def test_an_early_call_waits_for_the_callers_of_the_last_group() -> None:
    transactions = Transactions()
    queue = WriteQueue(transactions, transactions)
    writing = [asyncio.create_task(write_again_and_again(queue, 0))]
    await turns(3)
    writing += [asyncio.create_task(write_again_and_again(queue, item)) for item in range(1, 64)]
    await turns(3)

    for _ in range(4):
        await transactions.end_one()

    assert transactions.sizes == [1, 63, 64, 64, 64]
    for each in writing:
        each.cancel()


async def test_a_call_waits_a_few_loop_turns_at_most_for_the_last_group() -> None:
    transactions = Transactions()
    queue = WriteQueue(transactions, transactions)
    first = asyncio.create_task(queue.write("op", range(64)))
    await turns(3)
    second = asyncio.create_task(queue.write("op", [64]))
    await turns(3)

    await transactions.end_one()

    assert transactions.sizes == [64, 1]
    assert first.done()
    await transactions.end_one()
    assert await second == [64]


async def test_a_lone_call_starts_at_once() -> None:
    transactions = Transactions()
    queue = WriteQueue(transactions, transactions)
    first = asyncio.create_task(queue.write("op", range(64)))
    await turns(3)
    await transactions.end_one()
    assert first.done()

    lone = asyncio.create_task(queue.write("op", [64]))
    await turns(2)

    assert transactions.sizes == [64, 1]
    await transactions.end_one()
    assert await lone == [64]
