"""Time, randomness and ids: the only place that knows them, so that a test can own all three.

Moments are timezone-aware UTC datetimes; stores keep them as integer microseconds since the epoch.
"""

import asyncio
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # two digits for the time of one
_TIME_WIDTH = 12
_ENTROPY_BYTES = 8
_TOKEN_BYTES = 32


FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
"""A moment after all others."""


class Clock(Protocol):
    """What the time is, and how to wait for a moment or an event."""

    def now(self) -> datetime:
        """Tell the present moment, in UTC."""
        ...

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        """Wait for *event*, at the longest *until* a moment; tell whether the event came."""
        ...


class SystemClock:
    """The machine's clock and the running loop's timers."""

    def now(self) -> datetime:
        """Tell the present moment, in UTC."""
        return datetime.now(UTC)

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        """Wait for *event*, at the longest *until* a moment; tell whether the event came."""
        if until is None:
            return await event.wait()
        try:
            async with asyncio.timeout(max(0.0, (until - self.now()).total_seconds())):
                return await event.wait()
        except TimeoutError:
            return event.is_set()


class Ids:
    """Makes ids that sort by age, and tokens that nobody guesses."""

    def __init__(self, clock: Clock, entropy: Callable[[int], bytes] = os.urandom, *, after: str = "") -> None:
        """*above* is the newest id of former runs, for a clock that was set back in between."""
        self._clock = clock
        self._entropy = entropy
        self._last = _read_base32(after.rpartition("_")[2], _TIME_WIDTH)

    def new(self, prefix: str) -> str:
        """Make the next id, such as ``tsk_0kq3...``: 12 characters of time, 13 of chance.

        They rise strictly, also when the clock stands still or is set back.
        """
        self._last = max(self._last + 1, micros(self._clock.now()))
        chance = int.from_bytes(self._entropy(_ENTROPY_BYTES))
        return f"{prefix}_{_base32(self._last, _TIME_WIDTH)}{_base32(chance, 13)}"

    @property
    def latest(self) -> datetime:
        """The latest moment that an id was made at; ahead of the clock where that was set back since."""
        return from_micros(self._last)

    @staticmethod
    def token() -> str:
        """Make a secret of 256 bits that is safe in a URL's path."""
        return secrets.token_urlsafe(_TOKEN_BYTES)


def first_id(prefix: str, at: datetime) -> str:
    """Give what stands before every id made from *at* on, to begin there with what has happened since."""
    return f"{prefix}_{_base32(micros(at), _TIME_WIDTH)}{'0' * 13}"


def micros(at: datetime) -> int:
    """Turn a moment into whole microseconds since the epoch."""
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Turn microseconds since the epoch into a moment."""
    return EPOCH + timedelta(microseconds=micros)


def iso(at: datetime) -> str:
    """Write a moment as RFC 3339 with milliseconds: ``2026-11-22T10:00:00.123Z``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _base32(number: int, width: int) -> str:
    digits = []
    for _ in range(0, width, 2):
        digits.append(_PAIRS[number & 1023])
        number >>= 10
    return "".join(reversed(digits))[-width:]


def _read_base32(digits: str, width: int) -> int:
    """Read the number that *digits* begin with; 0 where they are not of our making."""
    digits = digits[:width]
    if len(digits) < width or set(digits) - set(_ALPHABET):
        return 0
    number = 0
    for digit in digits:
        number = number * 32 + _ALPHABET.index(digit)
    return number
