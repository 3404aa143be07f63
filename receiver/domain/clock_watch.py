"""Detects a clock that was set back. Pure: the time is an argument.

Times planned by the earlier clock then lie too far ahead, and work would wait for them.
"""

from datetime import datetime, timedelta

CLOCK_TOLERANCE = timedelta(seconds=5)
"""A smaller step back is normal clock adjustment."""


class ClockWatch:
    """Compares the time with the last time that was recorded.

    Record a time only after the work that follows from it has succeeded. Otherwise a failure would hide the change.
    """

    def __init__(self, *, latest: datetime | None = None) -> None:
        """*latest* is the latest time that earlier processes recorded, if it is known."""
        self._latest = latest
        self._is_started = False

    @property
    def is_start(self) -> bool:
        """Whether no time has been recorded yet."""
        return not self._is_started

    def was_set_back(self, now: datetime) -> bool:
        """Return whether the clock was set back by more than 5 s since the last recorded time."""
        return self.set_back_by(now) > CLOCK_TOLERANCE

    def set_back_by(self, now: datetime) -> timedelta:
        """Return how far *now* lies before the last recorded time; negative if it lies after it."""
        return timedelta() if self._latest is None else self._latest - now

    def needs_catch_up(self, now: datetime) -> bool:
        """Return whether planned times are not to be relied on: at the start, and if the clock was set back."""
        return self.is_start or self.was_set_back(now)

    def record(self, now: datetime) -> None:
        """Record *now* as the last time."""
        self._latest = now
        self._is_started = True
