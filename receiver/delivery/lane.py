"""How one route delivers, and the slot of one attempt."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from receiver.delivery.retry import RetryPolicy
from receiver.delivery.senders.sender import Sender
from receiver.domain.rate_limiter import RateLimiter

LEASE_MARGIN = timedelta(seconds=30)
"""How much longer than an attempt its claim lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How one route delivers: sender, retry policy, concurrency and rate limit."""

    sender: Sender
    policy: RetryPolicy
    concurrency: int
    rate: RateLimiter | None = None


LaneLookup = Callable[[str], Lane | None]
"""Return a route's lane by name, or None if the route is no longer configured."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a route's lane for one attempt, with the claim of its delivery until the lease ends."""

    route: str
    lane: Lane
    claim: str
    until: datetime
