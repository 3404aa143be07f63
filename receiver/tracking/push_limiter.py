"""Limits the pushes that one callback URL may send without effect, for a URL that has leaked. Pure.

A genuine push is not among the refused: each limit counts apart, and a poll confirms what a refused push reports.
"""

from datetime import datetime, timedelta
from enum import Enum

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.errors import TooManyPending
from receiver.domain.rate_limiter import RateLimiter

USUAL_BYTES = 16 * 1024
"""Kling's pushes are smaller than this."""

_PERIOD = timedelta(minutes=1)
_MAX_TRACKED = 10_000


class PushKind(Enum):
    """What a limit counts. ``limit`` is how many pushes of it a URL may send in a minute."""

    LARGE = 10, "larger than 16 KiB"
    END = 600, "with a final status"
    PROGRESS = 600, "without a final status"
    UNNAMED = 600, "without a task id"

    __hash__ = object.__hash__  # an enum's own is a function in Python, and each callback needs it eight times

    def __init__(self, limit: int, description: str) -> None:
        self.limit = limit
        self.description = description


class PushLimiter:
    """Counts the pushes of each callback URL that had no effect, by kind. Restarts forget them.

    A push that waits for its commit counts too: it may turn out to have no effect.
    """

    def __init__(self) -> None:
        self._limiters: BoundedDict[tuple[bytes, PushKind], RateLimiter] = BoundedDict(_MAX_TRACKED)
        self._waiting: dict[tuple[bytes, PushKind], int] = {}

    def begin(self, token: bytes, kind: PushKind, *, now: datetime) -> None:
        """Count a push that begins to wait for its commit, or raise as ``check``."""
        self.check(token, kind, now=now)
        key = (token, kind)
        self._waiting[key] = self._waiting.get(key, 0) + 1

    def end(self, token: bytes, kind: PushKind) -> None:
        """Stop counting a push that waited."""
        key = (token, kind)
        waiting = self._waiting.pop(key)
        if waiting > 1:
            self._waiting[key] = waiting - 1

    def check(self, token: bytes, kind: PushKind, *, now: datetime) -> None:
        """Raise TooManyPending if the URL with this token's hash has sent too many pushes of this kind."""
        key = (token, kind)
        left = self._limiters[key].available(now) if key in self._limiters else kind.limit
        if left <= self._waiting.get(key, 0):
            raise TooManyPending(
                f"This callback URL received too many pushes {kind.description}. Send this one again in a minute."
            )

    def record(self, token: bytes, kind: PushKind, *, now: datetime) -> None:
        """Count a push that had no effect."""
        key = (token, kind)
        if key not in self._limiters:
            self._limiters[key] = RateLimiter(count=kind.limit, per=_PERIOD)
        self._limiters[key].acquire(1, now)

    def count(self, token: bytes, kind: PushKind, *, now: datetime) -> None:
        """Count a push with any effect, or raise as ``check``."""
        self.check(token, kind, now=now)
        self.record(token, kind, now=now)
