"""How long to leave somebody alone who cannot serve just now. Pure: the time comes in by arguments."""

from datetime import datetime, timedelta

SECOND = timedelta(seconds=1)


class Patience:
    """Lets calls through while they succeed; after failures one at a time, as a probe, further and further apart.

    It closes after *tolerates* failures in a row have been forgiven. A call that was under way when it closed
    tells nothing new by failing too, so that many at once make one wait and not the longest.
    """

    def __init__(self, *, longest: timedelta, first: timedelta = SECOND, tolerates: int = 0) -> None:
        self.why = ""
        self._first = first
        self._longest = longest
        self._tolerates = tolerates
        self._failures = 0
        self._closed_at: datetime | None = None
        self._until: datetime | None = None
        self._set_at: datetime | None = None

    @property
    def opens_at(self) -> datetime | None:
        """When the next probe may go out; None while everything may."""
        return self._until

    def admits(self, now: datetime) -> bool:
        """Tell whether a call may be made now."""
        if self._set_at is not None and now < self._set_at:
            return True  # the clock was set back; what lies ahead of it would stop everything until then
        return self._until is None or now >= self._until

    def call(self, now: datetime, *, lasts: timedelta) -> None:
        """Note that a call is made; as a probe it is alone for as long as it may last."""
        if self._until is not None:
            self._until, self._set_at = now + lasts, now

    def forgo(self, now: datetime) -> None:
        """Note that a call was not made after all."""
        if self._until is not None:
            self._until = self._set_at = now

    def fail(self, why: str, *, begun: datetime, now: datetime, asked: timedelta | None = None) -> None:
        """Note that a call, *begun* then, could not be served; *asked* is how long the other side wants to be left."""
        if self._closed_at is not None and begun < self._closed_at <= now:
            return
        self._failures += 1
        if self._failures <= self._tolerates:
            return
        grown = self._first * 2 ** min(self._failures - self._tolerates - 1, 20)
        self.why = why
        self._closed_at = self._set_at = now
        self._until = now + min(max(grown, asked or timedelta()), self._longest)

    def pause(self, *, begun: datetime, now: datetime) -> None:
        """Note a failure that tells of a passing trouble: the next probe is the first one's wait away, no further."""
        if self._closed_at is None or begun >= self._closed_at:
            self._closed_at = self._set_at = now
            self._until = now + self._first

    def reopen(self, now: datetime) -> None:
        """Note that a probe was served, perhaps by luck: the next may go at once, and is still alone."""
        self._failures //= 2
        self._until = self._set_at = now

    def succeed(self) -> None:
        """Note that a call was served."""
        self._failures = 0
        self._closed_at = self._until = self._set_at = None
        self.why = ""
