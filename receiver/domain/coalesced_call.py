"""One call for all callers that wait at the same moment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CoalescedCall(Generic[T]):
    """Calls *function* once for all callers that wait at the same moment.

    Each caller gets the result of a run that began after its call, so the run has seen what the caller did before. A
    run that raises serves only the caller that made it.
    """

    def __init__(self, function: Callable[[], Awaitable[T]], *, lock: asyncio.Lock | None = None) -> None:
        """*lock* is held during each run."""
        self._function = function
        self._lock = lock or asyncio.Lock()
        self._begun = 0
        self._last: tuple[int, T] | None = None

    async def __call__(self) -> T:
        """Return the result of a run that began after this call."""
        begun_before = self._begun
        async with self._lock:
            if self._last is None or self._last[0] <= begun_before:
                self._begun = number = self._begun + 1
                self._last = number, await self._function()
            return self._last[1]
