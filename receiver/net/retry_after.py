"""Parse the ``Retry-After`` header, in seconds or as an HTTP date."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER = timedelta(hours=1)
"""No destination can delay its own retries for longer than this."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def parse_retry_after(value: str, *, now: datetime, maximum: timedelta = MAX_RETRY_AFTER) -> timedelta | None:
    """Return how long to wait, from zero to *maximum*, or None if *value* is empty or not valid."""
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return timedelta(seconds=min(float(text), maximum.total_seconds()))
    try:
        at = parsedate_to_datetime(text)
        wait = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(wait, timedelta()), maximum)
