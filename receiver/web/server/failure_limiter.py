"""Counts the failures of clients, so that a client that keeps sending bad requests costs little."""


class FailureLimiter:
    """Limits the failures of each client and of all clients together.

    Times are seconds of a monotonic clock. At most *max_clients* clients are remembered. While all of them have recent
    failures, a new client is treated as over its limit; its valid requests are still accepted.
    """

    def __init__(
        self, *, burst: int = 60, per_second: float = 1.0, total_factor: int = 10, max_clients: int = 4096
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._max_clients = max_clients
        self._total = LeakyBucket(total_factor * burst, total_factor * per_second)
        self._buckets: dict[str, LeakyBucket] = {}
        self._purged_at = 0.0

    def allows(self, client: str, now: float) -> bool:
        """Return whether *client* may fail once more."""
        if not self._total.has_capacity(now):
            return False
        bucket = self._buckets.get(client)
        return self._has_capacity(now) if bucket is None else bucket.has_capacity(now)

    def record(self, client: str, now: float) -> bool:
        """Count a failure. Return True once when it exhausts the client's limit."""
        bucket = self._buckets.setdefault(client, LeakyBucket(self._burst, self._per_second))
        bucket.is_reported = bucket.is_reported and bool(bucket.level(now))
        bucket.add(now)
        self._total.add(now)
        if bucket.has_capacity(now) or bucket.is_reported:
            return False
        bucket.is_reported = True
        return True

    def _has_capacity(self, now: float) -> bool:
        if len(self._buckets) >= self._max_clients and now - self._purged_at >= 1 / self._per_second:
            self._purged_at = now
            self._buckets = {client: bucket for client, bucket in self._buckets.items() if bucket.level(now)}
        return len(self._buckets) < self._max_clients


class LeakyBucket:
    """The failures of one client. Their number decreases at a constant rate."""

    __slots__ = ("_at", "_capacity", "_level", "_per_second", "is_reported")

    def __init__(self, capacity: int, per_second: float) -> None:
        self.is_reported = False
        self._capacity = capacity
        self._per_second = per_second
        self._level = 0.0
        self._at = 0.0

    def level(self, now: float) -> float:
        """Return how full the bucket is at *now*, in seconds of the monotonic clock."""
        return max(0.0, self._level - (now - self._at) * self._per_second)

    def has_capacity(self, now: float) -> bool:
        """Return whether one more failure fits."""
        return self.level(now) <= self._capacity - 1

    def add(self, now: float) -> None:
        """Add a failure."""
        self._level, self._at = self.level(now) + 1, now
