"""A free slot goes to the group with the fewest, and is freed however its holder ends."""

import asyncio

from receiver.archive.fair_limiter import FairLimiter


class Owners:
    """Owners that take places and keep them until they are told to go."""

    def __init__(self, slots: int) -> None:
        self.limiter = FairLimiter(slots)
        self.started: list[str] = []
        self.holding: dict[str, list[asyncio.Event]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def acquire(self, *owners: str) -> None:
        for owner in owners:
            self.tasks.append(asyncio.create_task(self._hold(owner)))
        await settle()

    async def _hold(self, owner: str) -> None:
        async with self.limiter.slot(owner):
            self.started.append(owner)
            go = asyncio.Event()
            self.holding.setdefault(owner, []).append(go)
            await go.wait()

    async def release(self, owner: str) -> None:
        self.holding[owner].pop(0).set()
        await settle()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_single_group_may_use_all_slots() -> None:
    owners = Owners(4)
    await owners.acquire(*"aaaaaa")

    assert owners.started == list("aaaa")
    await owners.end()


async def test_a_later_group_does_not_wait_for_all_of_an_earlier_one() -> None:
    owners = Owners(2)
    await owners.acquire(*"aaaaaaaaa", *"bb", "c")

    for _ in range(2):
        await owners.release("a")
    await owners.release("b")

    assert owners.started == list("aabca")
    await owners.end()


async def test_with_one_slot_the_groups_take_turns() -> None:
    owners = Owners(1)
    await owners.acquire(*"aaa", *"bbb", *"ccc")

    for owner in "abcabc":
        await owners.release(owner)

    assert owners.started == list("abcabca")
    await owners.end()


async def test_a_cancelled_waiter_frees_its_slot_in_any_state() -> None:
    owners = Owners(1)
    await owners.acquire("a", "b", "c")
    holder, next_in_line, last = owners.tasks

    next_in_line.cancel()
    await settle()
    holder.cancel()
    await settle()
    assert owners.started == ["a", "c"]

    await owners.acquire("d")
    await owners.release("c")
    assert owners.started == ["a", "c", "d"]
    assert last.done()
    await owners.end()


async def test_cancelling_a_waiter_as_it_is_granted_frees_the_slot() -> None:
    owners = Owners(1)
    await owners.acquire("a", "b", "c")

    owners.holding["a"][0].set()
    await asyncio.sleep(0)  # a is about to give its place up
    owners.tasks[1].cancel()
    await settle()

    assert owners.started[-1] == "c"
    await owners.end()
