"""Deliveries that were in flight at several deaths of the process. Each is attempted alone, to find their cause."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from receiver.domain.clock import Clock


class Suspects:
    """The suspects that were not attempted yet, and the one in flight."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._routes: dict[str, str] = {}  # delivery ID -> route, the least suspected first
        self._alone: str | None = None
        self._began = 0.0
        self._next_at = clock.now()

    def load(self, routes: Mapping[str, str]) -> None:
        """Use these suspects: the route of each by its delivery's id, the least suspected first."""
        self._routes = dict(routes)

    @property
    def ids(self) -> Collection[str]:
        """The ids of the deliveries that were not attempted yet."""
        return self._routes.keys()

    @property
    def is_one_in_flight(self) -> bool:
        """Whether a suspect is attempted now, so that nothing else may start."""
        return self._alone is not None

    @property
    def next_at(self) -> datetime | None:
        """When the next one may be attempted, or None if it may be now or if there is none."""
        return self._next_at if self._routes and self._next_at > self._clock.now() else None

    def due(self) -> Sequence[tuple[str, str]]:
        """Return the id and the route of each suspect that may be attempted now, the least suspected first."""
        return () if self._clock.now() < self._next_at else tuple(self._routes.items())

    def remove(self, delivery_id: str) -> None:
        """Forget a suspect, because it was claimed or is not due any more."""
        del self._routes[delivery_id]

    def begin(self, delivery_id: str) -> None:
        """Note that a suspect is attempted alone."""
        self._alone = delivery_id
        self._began = self._clock.monotonic()  # not the wall clock: after a step forward the others would wait as long

    def end(self, delivery_id: str) -> bool:
        """Note the end of an attempt. Return whether it was a suspect's.

        All other deliveries get as much time as it took before the next suspect is attempted.
        """
        if self._alone != delivery_id:
            return False
        self._alone = None
        self._next_at = self._clock.now() + timedelta(seconds=self._clock.monotonic() - self._began)
        return True

    def retry_now(self) -> None:
        """Permit the next suspect now: after the clock was set back, the planned time is too far ahead."""
        self._next_at = self._clock.now()
