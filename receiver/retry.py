"""What happens to a delivery after an attempt, and to the route it travels in. Pure: no clock, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from receiver.model import Accepted, DeliveryStatus, Failed, Outcome, Refused, RouteState, Verdict

JITTER = 0.2
HOLD_AFTER = 5
PROBE_EVERY = timedelta(minutes=1)
LONGEST_RETRY_AFTER = timedelta(hours=1)
BURY_AFTER = 10
"""Claims in a row that came to no verdict, after which a delivery is taken to be what ends the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait after each failed attempt, and when to stop."""

    schedule: Sequence[timedelta]
    give_up_after: timedelta

    def judge(
        self, outcome: Outcome, *, attempt: int, age: timedelta, held: bool, now: datetime, rng: Random
    ) -> Verdict:
        """Decide what follows attempt number *attempt*, counted from one, of a delivery of that *age*.

        In a held route nothing dies: it is the route that fails, not the event.
        """
        match outcome:
            case Accepted():
                return Verdict(status=DeliveryStatus.DELIVERED, due_at=now, finished_at=now)
            case Refused():
                return Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
            case Failed() if held:
                return Verdict(status=DeliveryStatus.PENDING, due_at=now + PROBE_EVERY)
            case Failed() if age >= self.give_up_after:
                return Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
            case Failed(retry_after=asked):
                return Verdict(status=DeliveryStatus.PENDING, due_at=now + self._wait(attempt, asked, rng))

    def _wait(self, attempt: int, asked: timedelta | None, rng: Random) -> timedelta:
        planned = self.schedule[min(attempt, len(self.schedule)) - 1]
        planned *= 1 + rng.uniform(-JITTER, JITTER)
        if asked is None:
            return planned
        return max(planned, min(asked, LONGEST_RETRY_AFTER))


def after_attempt(route: RouteState, outcome: Outcome, *, now: datetime) -> RouteState:
    """Tell what is remembered of a route after an attempt: failures in a row, and whether it is held.

    A delivery that is refused for good says nothing about the others, unless the destination is gone.
    """
    match outcome:
        case Accepted():
            return RouteState(name=route.name)
        case Refused(hold=False):
            return route
        case Refused(reason=reason):
            return replace(route, failures=route.failures + 1, held_at=route.held_at or now, held_why=reason)
        case Failed(reason=reason):
            failures = route.failures + 1
            if route.held_at is not None or failures < HOLD_AFTER:
                return replace(route, failures=failures)
            return replace(route, failures=failures, held_at=now, held_why=reason)


@dataclass(slots=True)
class Pace:
    """A route's ``rate``: how many attempts may start now, and when the next may. A full second may burst."""

    count: int
    per: timedelta
    tokens: float = 0.0
    filled_at: datetime | None = None

    def allowance(self, now: datetime) -> int:
        """Tell how many attempts may start at this moment."""
        if self.filled_at is None:
            self.tokens = float(self.count)
        else:
            self.tokens = min(float(self.count), self.tokens + self.count * ((now - self.filled_at) / self.per))
        self.filled_at = now
        return int(self.tokens)

    def take(self, started: int) -> None:
        """Count attempts that started."""
        self.tokens -= started

    def next_at(self, now: datetime) -> datetime:
        """Tell when the next attempt may start."""
        return now + self.per * (max(0.0, 1.0 - self.tokens) / self.count)
