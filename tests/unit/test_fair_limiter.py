"""A place is given to whoever has had the least, and comes back whatever becomes of its holder."""

import asyncio

from receiver.archive.fair_limiter import Turns


class Queue:
    """Owners that take places and keep them until they are told to go."""

    def __init__(self, places: int) -> None:
        self.turns = Turns(places)
        self.began: list[str] = []
        self.holding: dict[str, list[asyncio.Event]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *owners: str) -> None:
        for owner in owners:
            self.tasks.append(asyncio.create_task(self._take(owner)))
        await settled()

    async def _take(self, owner: str) -> None:
        async with self.turns.of(owner):
            self.began.append(owner)
            go = asyncio.Event()
            self.holding.setdefault(owner, []).append(go)
            await go.wait()

    async def leave(self, owner: str) -> None:
        self.holding[owner].pop(0).set()
        await settled()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_alone_has_all_places() -> None:
    queue = Queue(4)
    await queue.come(*"aaaaaa")

    assert queue.began == list("aaaa")
    await queue.end()


async def test_who_comes_later_does_not_wait_for_all_of_who_came_first() -> None:
    queue = Queue(2)
    await queue.come(*"aaaaaaaaa", *"bb", "c")

    for _ in range(2):
        await queue.leave("a")
    await queue.leave("b")

    assert queue.began == list("aabca")
    await queue.end()


async def test_with_one_place_all_take_turns() -> None:
    queue = Queue(1)
    await queue.come(*"aaa", *"bbb", *"ccc")

    for owner in "abcabc":
        await queue.leave(owner)

    assert queue.began == list("abcabca")
    await queue.end()


async def test_a_place_comes_back_from_one_that_was_cancelled_in_any_state() -> None:
    queue = Queue(1)
    await queue.come("a", "b", "c")
    holder, next_in_line, last = queue.tasks

    next_in_line.cancel()
    await settled()
    holder.cancel()
    await settled()
    assert queue.began == ["a", "c"]

    await queue.come("d")
    await queue.leave("c")
    assert queue.began == ["a", "c", "d"]
    assert last.done()
    await queue.end()


async def test_one_that_is_cancelled_as_its_turn_comes_takes_nobodys_place() -> None:
    queue = Queue(1)
    await queue.come("a", "b", "c")

    queue.holding["a"][0].set()
    await asyncio.sleep(0)  # a is about to give its place up
    queue.tasks[1].cancel()
    await settled()

    assert queue.began[-1] == "c"
    await queue.end()
