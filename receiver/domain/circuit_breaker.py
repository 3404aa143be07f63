"""How long to leave somebody alone who cannot serve just now. Pure: the time comes in by arguments."""

from datetime import datetime, timedelta

SECOND = timedelta(seconds=1)


class CircuitBreaker:
    """Lets calls through while they succeed; after failures one at a time, as a probe, further and further apart.

    It closes after *tolerates* failures in a row have been forgiven. A call that was under way when it closed
    tells nothing new by failing too, so that many at once make one wait and not the longest.
    """

    def __init__(self, *, max_delay: timedelta, base_delay: timedelta = SECOND, failure_threshold: int = 0) -> None:
        self.reason = ""
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._failure_threshold = failure_threshold
        self._failures = 0
        self._opened_at: datetime | None = None
        self._next_probe_at: datetime | None = None
        self._set_at: datetime | None = None

    @property
    def next_probe_at(self) -> datetime | None:
        """When the next probe may go out; None while everything may."""
        return self._next_probe_at

    def allows(self, now: datetime) -> bool:
        """Tell whether a call may be made now."""
        if self._set_at is not None and now < self._set_at:
            return True  # the clock was set back; what lies ahead of it would stop everything until then
        return self._next_probe_at is None or now >= self._next_probe_at

    def start(self, now: datetime, *, max_duration: timedelta) -> None:
        """Note that a call is made; as a probe it is alone for as long as it may last."""
        if self._next_probe_at is not None:
            self._next_probe_at, self._set_at = now + max_duration, now

    def cancel(self, now: datetime) -> None:
        """Note that a call was not made after all."""
        if self._next_probe_at is not None:
            self._next_probe_at = self._set_at = now

    def record_failure(
        self, reason: str, *, started_at: datetime, now: datetime, retry_after: timedelta | None = None
    ) -> None:
        """Note that a call, *begun* then, could not be served; *asked* is how long the other side wants to be left."""
        if self._opened_at is not None and started_at < self._opened_at <= now:
            return
        self._failures += 1
        if self._failures <= self._failure_threshold:
            return
        grown = self._base_delay * 2 ** min(self._failures - self._failure_threshold - 1, 20)
        self.reason = reason
        self._opened_at = self._set_at = now
        self._next_probe_at = now + min(max(grown, retry_after or timedelta()), self._max_delay)

    def record_transient_failure(self, *, started_at: datetime, now: datetime) -> None:
        """Note a failure that tells of a passing trouble: the next probe is the first one's wait away, no further."""
        if self._opened_at is None or started_at >= self._opened_at:
            self._opened_at = self._set_at = now
            self._next_probe_at = now + self._base_delay

    def half_open(self, now: datetime) -> None:
        """Note that a probe was served, perhaps by luck: the next may go at once, and is still alone."""
        self._failures //= 2
        self._next_probe_at = self._set_at = now

    def record_success(self) -> None:
        """Note that a call was served."""
        self._failures = 0
        self._opened_at = self._next_probe_at = self._set_at = None
        self.reason = ""
