"""Who may download now: a few at once, and no event more than its share while others wait."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLimiter:
    """So many places for all. A free one goes to whoever has the fewest, and of those to whose turn is longest ago."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._in_use: Counter[str] = Counter()
        self._last_grant: dict[str, int] = {}
        self._grants = 0
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Have a place, for as long as the block lasts."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        self._grant()
        try:
            await turn
            yield
        finally:
            if (owner, turn) in self._waiting:
                self._waiting.remove((owner, turn))
            else:
                self._free += 1
                self._in_use[owner] -= 1
            self._forget(owner)
            self._grant()

    def _grant(self) -> None:
        while self._free and (waiting := [one for one in self._waiting if not one[1].done()]):
            owner, turn = next_one = min(
                waiting, key=lambda one: (self._in_use[one[0]], self._last_grant.get(one[0], 0))
            )
            self._waiting.remove(next_one)
            self._free -= 1
            self._grants += 1
            self._in_use[owner] += 1
            self._last_grant[owner] = self._grants
            turn.set_result(None)

    def _forget(self, owner: str) -> None:
        if not self._in_use[owner] and all(other != owner for other, _ in self._waiting):
            del self._in_use[owner]
            self._last_grant.pop(owner, None)
