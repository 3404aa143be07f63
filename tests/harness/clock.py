"""A fake clock for tests."""

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


class FakeClock:
    """A clock that moves only when a test advances it. Waits end when their time is reached."""

    def __init__(self, at: datetime = START) -> None:
        self._now = at
        self._seconds = 0.0
        self._sleepers: dict[asyncio.Timeout, datetime] = {}

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._seconds

    def set_forward(self, by: timedelta) -> None:
        """Set the clock forward, as an operator or NTP does. No wait ends earlier for that."""
        self._now += by
        self._sleepers = {sleeper: until + by for sleeper, until in self._sleepers.items()}

    def advance(self, by: timedelta) -> None:
        """Advance the time, and wake all waits that are due."""
        self._now += by
        self._seconds += max(by.total_seconds(), 0)
        for sleeper in [sleeper for sleeper, until in self._sleepers.items() if until <= self._now]:
            del self._sleepers[sleeper]
            sleeper.reschedule(0)

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if until is None:
            return await event.wait()
        if event.is_set() or until <= self._now:
            return event.is_set()
        sleeper = asyncio.timeout(None)
        try:
            async with sleeper:
                self._sleepers[sleeper] = until
                return await event.wait()
        except TimeoutError:
            return event.is_set()
        finally:
            self._sleepers.pop(sleeper, None)
