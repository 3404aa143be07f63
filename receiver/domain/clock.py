"""Time, randomness and ids. They come from this module only, so that a test can replace all three.

Times are timezone-aware UTC datetimes; stores keep them as integer microseconds since the epoch.
"""

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import msgspec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # two digits per lookup, for speed
_TIME_WIDTH = 12
_SLOW_WIDTH = 8  # of the digits of time: they change once a second
_RANDOM_WIDTH = 13
_IDS_PER_DRAW = 32
_LETTER_OF_BYTE = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))
_TOKEN_BYTES = 32
TOKEN_LENGTH = 43  # of these bytes in base64

_encode = msgspec.json.Encoder().encode  # writes a time ten times as fast as isoformat, without a fraction of 0

_IGNORED_ERROR = timedelta(seconds=2)  # the time of a round trip on a busy machine, for example

FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
"""The latest possible time."""


class Clock(Protocol):
    """Provides the time, and waits until a time or an event."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since a fixed moment, which never jump. Money may depend on such a wait, not on ``now``."""
        ...

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        """Wait for *event*, at most *until* that time. Return whether the event is set."""
        ...


class SystemClock:
    """The machine's clock and the running loop's timers."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since a fixed moment, which never jump."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        """Wait for *event*, at most *until* that time. Return whether the event is set."""
        if until is None:
            return await event.wait()
        try:
            async with asyncio.timeout(max(0.0, (until - self.now()).total_seconds())):
                return await event.wait()
        except TimeoutError:
            return event.is_set()


async def wait_for_first(clock: Clock, *events: asyncio.Event, until: datetime) -> None:
    """Wait until one of *events* is set, at most *until* that time."""
    waits = [asyncio.create_task(clock.wait(event, until=until)) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class AdjustedClock(SystemClock):
    """The machine's clock, moved by ``offset`` to that of the database, so that all nodes have the same time."""

    offset = timedelta()

    def now(self) -> datetime:
        """Return the current time of the database in UTC."""
        return datetime.now(UTC) + self.offset

    def adjust(self, theirs: datetime) -> bool:
        """Adopt the time that the database has now. Return whether the clock moved; it ignores less than 2 s."""
        error = theirs - self.now()
        if abs(error) < _IGNORED_ERROR:
            return False
        self.offset += error
        return True


class Ids:
    """Makes ids that sort by age, and tokens that cannot be guessed."""

    def __init__(self, clock: Clock, entropy: Callable[[int], bytes] = os.urandom, *, after: str = "") -> None:
        """*after* is the newest id of earlier runs. New ids sort after it even if the clock was set back since."""
        self._clock = clock
        self._entropy = entropy
        self._letters = ""
        self._used = 0  # of the letters
        self._slow_time = -1
        self._slow_digits = ""
        self._last = _read_base32(after.rpartition("_")[2], _TIME_WIDTH)

    def new(self, prefix: str) -> str:
        """Return the next id, such as ``tsk_0kq3...``: 12 characters of time, 13 random ones.

        Ids increase strictly, even when the clock stops or is set back.
        """
        self._last = time = max(self._last + 1, micros(self._clock.now()))
        if time >> 20 != self._slow_time:
            self._slow_time = time >> 20
            self._slow_digits = _base32(self._slow_time, _SLOW_WIDTH)
        at = self._used
        if at == len(self._letters):
            # Each draw is a system call, and each event needs several ids.
            drawn = self._entropy(_RANDOM_WIDTH * _IDS_PER_DRAW)
            self._letters, at = drawn.translate(_LETTER_OF_BYTE).decode(), 0
        self._used = at + _RANDOM_WIDTH
        fast_digits = f"{_PAIRS[time >> 10 & 1023]}{_PAIRS[time & 1023]}"
        return f"{prefix}_{self._slow_digits}{fast_digits}{self._letters[at : self._used]}"

    def pass_over(self, newest: str) -> None:
        """Make new ids sort after *newest*, which another process may have made by a clock that is ahead."""
        self._last = max(self._last, _read_base32(newest.rpartition("_")[2], _TIME_WIDTH))

    @property
    def latest(self) -> datetime:
        """The time in the newest id. It is ahead of the clock if the clock was set back since."""
        return from_micros(self._last)

    @staticmethod
    def token() -> str:
        """Return a random 256-bit secret that is safe in a URL path."""
        # As secrets.token_urlsafe does, which loads `random` into every command.
        return base64.urlsafe_b64encode(os.urandom(_TOKEN_BYTES)).rstrip(b"=").decode()


def token_hash(token: str) -> bytes:
    """Return the hash of a callback token, which is stored instead of the token. Takes any string from a URL."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def first_id(prefix: str, at: datetime) -> str:
    """Return a lower bound for all ids made at or after *at*: a cursor that starts at that time."""
    return f"{prefix}_{_base32(max(0, micros(at)), _TIME_WIDTH)}{'0' * _RANDOM_WIDTH}"


BEFORE_ALL_EVENTS = "evt_" + "0" * 25
"""A lower bound for all ids of events: a cursor that starts with the first event."""


def micros(at: datetime) -> int:
    """Convert a time to whole microseconds since the epoch."""
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Convert microseconds since the epoch to a time."""
    return EPOCH + micros * MICROSECOND


def iso(at: datetime) -> str:
    """Format a time as RFC 3339 with milliseconds: ``2026-11-22T10:00:00.123Z``."""
    if at.microsecond and at.tzinfo is UTC:
        return _encode(at)[1:24].decode() + "Z"
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def iso_micros(at: datetime) -> str:
    """Format a UTC time as RFC 3339 with microseconds, for the log."""
    if at.microsecond and at.tzinfo is UTC:
        return _encode(at)[1:-1].decode()
    return at.isoformat(timespec="microseconds")[:-6] + "Z"


def _base32(number: int, width: int) -> str:
    digits = []
    for _ in range(0, width, 2):
        digits.append(_PAIRS[number & 1023])
        number >>= 10
    return "".join(reversed(digits))[-width:]


def _read_base32(digits: str, width: int) -> int:
    """Parse the number at the start of *digits*. Return 0 if :class:`Ids` did not write it."""
    digits = digits[:width]
    if len(digits) < width or set(digits) - set(_ALPHABET):
        return 0
    number = 0
    for digit in digits:
        number = number * 32 + _ALPHABET.index(digit)
    return number
