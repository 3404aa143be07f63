"""A circuit breaker. Pure: the time is an argument."""

from datetime import datetime, timedelta

from receiver.domain.backoff import backoff

SECOND = timedelta(seconds=1)


class CircuitBreaker:
    """Closed: all calls pass. Open: one probe at a time, with growing delays.

    It opens on the first failure after *failure_threshold* failures in a row. Failures of calls already in flight when
    it opened are ignored, so a burst counts once.
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
        """When the next probe is allowed; None while the breaker is closed."""
        return self._next_probe_at

    def allows(self, now: datetime) -> bool:
        """Return whether a call is allowed now."""
        if self._set_at is not None and now < self._set_at:
            return True  # the clock was set back; the old probe time would block every call until then
        return self._next_probe_at is None or now >= self._next_probe_at

    def start(self, now: datetime, *, max_duration: timedelta) -> None:
        """Record that a call starts. A probe blocks other calls for at most *max_duration*."""
        if self._next_probe_at is not None:
            self._next_probe_at, self._set_at = now + max_duration, now

    def cancel(self, now: datetime) -> None:
        """Record that a started call was not made, so that the next probe is allowed at once."""
        if self._next_probe_at is not None:
            self._next_probe_at = self._set_at = now

    def record_failure(
        self, reason: str, *, started_at: datetime, now: datetime, retry_after: timedelta | None = None
    ) -> None:
        """Record that a call started at *started_at* failed. *retry_after* is the delay the other side requested."""
        if self._opened_at is not None and started_at < self._opened_at <= now:
            return
        self._failures += 1
        if self._failures <= self._failure_threshold:
            return
        delay = backoff(self._failures - self._failure_threshold - 1, base=self._base_delay, maximum=self._max_delay)
        self.reason = reason
        self._opened_at = self._set_at = now
        self._next_probe_at = now + min(max(delay, retry_after or timedelta()), self._max_delay)

    def record_transient_failure(self, *, started_at: datetime, now: datetime) -> None:
        """Record a failure with a passing cause: the next probe comes after the base delay, without growth."""
        if self._opened_at is None or started_at >= self._opened_at:
            self._opened_at = self._set_at = now
            self._next_probe_at = now + self._base_delay

    def half_open(self, now: datetime) -> None:
        """Record a probe that succeeded, perhaps by chance: the next probe is allowed at once, still one at a time."""
        self._failures //= 2
        self._next_probe_at = self._set_at = now

    def record_success(self) -> None:
        """Record that a call succeeded, and close the breaker."""
        self._failures = 0
        self._opened_at = self._next_probe_at = self._set_at = None
        self.reason = ""
