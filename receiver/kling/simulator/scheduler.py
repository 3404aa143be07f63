"""Schedules actions with one heap and one loop, so thousands of tasks do not need thousands of timers."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from heapq import heappop, heappush
from itertools import count

from receiver.domain.clock import Clock

_MAX_PER_ROUND = 200


class Scheduler:
    """Runs short synchronous actions at their scheduled times, in order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: list[tuple[datetime, int, Callable[[], None]]] = []
        self._sequence = count()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def schedule(self, at: datetime, action: Callable[[], None]) -> None:
        """Schedule *action*; a time in the past means immediately."""
        heappush(self._due, (at, next(self._sequence), action))
        if self._due[0][0] == at:
            self._changed.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Run due actions until *stopping*; an exception from an action ends the loop."""
        stop = asyncio.ensure_future(stopping.wait())
        stop.add_done_callback(lambda _: self._changed.set())
        try:
            while not stopping.is_set():
                self._changed.clear()
                self._run_due()
                if self._due and self._due[0][0] <= self._clock.now():
                    await asyncio.sleep(0)  # lets answers and callbacks be sent between rounds
                else:
                    await self._clock.wait(self._changed, until=self._due[0][0] if self._due else None)
        finally:
            stop.cancel()

    def _run_due(self) -> None:
        now = self._clock.now()
        for _ in range(_MAX_PER_ROUND):
            if not self._due or self._due[0][0] > now:
                return
            heappop(self._due)[2]()
