"""Exponential backoff. Pure: no clock, no chance."""

from datetime import timedelta

_MAX_DOUBLINGS = 20  # keeps the product within a timedelta; every maximum in use is reached earlier


def backoff(attempt: int, *, base: timedelta, maximum: timedelta) -> timedelta:
    """Return the delay after *attempt*, counted from zero: *base*, doubled each time, at most *maximum*."""
    delay: timedelta = base * 2 ** min(max(attempt, 0), _MAX_DOUBLINGS)
    return min(delay, maximum)
