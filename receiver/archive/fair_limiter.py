"""Who may download now: a few at once, and no event more than its share while others wait."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many places for all. A free one goes to whoever has the fewest, and of those to whose turn is longest ago."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._taken: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self._count = 0
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """Have a place, for as long as the block lasts."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        self._give()
        try:
            await turn
            yield
        finally:
            if (owner, turn) in self._waiting:
                self._waiting.remove((owner, turn))
            else:
                self._free += 1
                self._taken[owner] -= 1
            self._forget(owner)
            self._give()

    def _give(self) -> None:
        while self._free and (waiting := [one for one in self._waiting if not one[1].done()]):
            owner, turn = next_one = min(waiting, key=lambda one: (self._taken[one[0]], self._last.get(one[0], 0)))
            self._waiting.remove(next_one)
            self._free -= 1
            self._count += 1
            self._taken[owner] += 1
            self._last[owner] = self._count
            turn.set_result(None)

    def _forget(self, owner: str) -> None:
        if not self._taken[owner] and all(other != owner for other, _ in self._waiting):
            del self._taken[owner]
            self._last.pop(owner, None)
