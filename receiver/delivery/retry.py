"""Decide what happens to a delivery after an attempt. Pure: no clock, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from receiver.delivery.route_hold import PROBE_INTERVAL
from receiver.domain.model import Accepted, DeliveryStatus, Failed, Outcome, Refused, RouteState, Verdict
from receiver.net.retry_after import MAX_RETRY_AFTER

JITTER = 0.2
SUSPECT_AFTER = 3
"""Deaths of the process during attempts at a delivery after which it is attempted alone, to find the cause.

Deaths with several deliveries in flight count only up to here. So no delivery is set aside for the fault of another.
"""
MAX_UNFINISHED_CLAIMS = 10
"""Deaths of the process during attempts at a delivery after which it is set aside: it seems to be their cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait after each failed attempt, and when to stop."""

    schedule: Sequence[timedelta]
    give_up_after: timedelta

    def decide(
        self, outcome: Outcome, *, attempt: int, age: timedelta, held: bool, now: datetime, rng: Random
    ) -> Verdict:
        """Decide what follows attempt number *attempt*, counted from one without probes, of a delivery of that *age*.

        In a held route a delivery dies only of its age or if it is refused itself: the route is failing, not the event.
        """
        match outcome:
            case Accepted():
                return Verdict(status=DeliveryStatus.DELIVERED, due_at=now, finished_at=now)
            case Failed() | Refused(hold=True) if held and age < self.give_up_after:
                return Verdict(status=DeliveryStatus.PENDING, due_at=now + PROBE_INTERVAL, probe=True)
            case Refused():
                return Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
            case Failed() if age >= self.give_up_after:
                return Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
            case Failed(retry_after=retry_after):
                return Verdict(status=DeliveryStatus.PENDING, due_at=now + self._delay(attempt, retry_after, rng))

    def _delay(self, attempt: int, retry_after: timedelta | None, rng: Random) -> timedelta:
        planned = self.schedule[min(attempt, len(self.schedule)) - 1]
        planned *= 1 + rng.uniform(-JITTER, JITTER)
        if retry_after is None:
            return planned
        return max(planned, min(retry_after, MAX_RETRY_AFTER))


def effective_age(created_at: datetime, route: RouteState, outcome: Outcome, *, now: datetime) -> timedelta:
    """Return how long a delivery could be attempted: since its creation or its route's last release.

    An event that its destination rejects gets no further time by a release.
    """
    if isinstance(outcome, Failed) and outcome.is_about_event:
        return now - created_at
    return now - max(created_at, route.released_at or created_at)
