"""A sliding-window rate limiter. Pure: the time is an argument."""

from collections import deque
from datetime import datetime, timedelta

import msgspec


class RateLimiter(msgspec.Struct):
    """Permits at most ``count`` starts within any ``per``. All of them may come in one burst."""

    count: int
    per: timedelta
    _started: deque[datetime] = msgspec.field(default_factory=deque)

    def available(self, now: datetime) -> int:
        """Return how many starts are permitted at this moment."""
        if self._started and self._started[-1] > now:
            self._started.clear()  # the clock was set back; later timestamps would block every start until then
        while self._started and self._started[0] + self.per <= now:
            self._started.popleft()
        return self.count - len(self._started)

    def acquire(self, starts: int, now: datetime) -> None:
        """Record *starts* starts at *now*."""
        self._started.extend([now] * starts)

    def next_at(self, now: datetime) -> datetime:
        """Return when the next start is permitted."""
        return now if self.available(now) > 0 else self._started[0] + self.per
