"""Limits downloads at once, shared fairly between events."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLimiter:
    """A fair semaphore. A free slot goes to the owner with the fewest slots; ties go to the least recently served."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._in_use: Counter[str] = Counter()
        self._last_grant: dict[str, int] = {}
        self._grants = 0
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot while the block runs."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, granted))
        self._grant()
        try:
            await granted
            yield
        finally:
            if (owner, granted) in self._waiting:
                self._waiting.remove((owner, granted))
            else:
                self._free += 1
                self._in_use[owner] -= 1
            self._forget(owner)
            self._grant()

    def _grant(self) -> None:
        while self._free and (waiting := [waiter for waiter in self._waiting if not waiter[1].done()]):
            owner, granted = chosen = min(
                waiting, key=lambda waiter: (self._in_use[waiter[0]], self._last_grant.get(waiter[0], 0))
            )
            self._waiting.remove(chosen)
            self._free -= 1
            self._grants += 1
            self._in_use[owner] += 1
            self._last_grant[owner] = self._grants
            granted.set_result(None)

    def _forget(self, owner: str) -> None:
        if not self._in_use[owner] and all(other != owner for other, _ in self._waiting):
            del self._in_use[owner]
            self._last_grant.pop(owner, None)
