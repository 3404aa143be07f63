"""When Kling made a task, by the task's id. A hint for people, never a proof: the form of the ids is not documented.

Today's ids are numbers that grow with time: the bits above the lowest 22 count milliseconds since a fixed moment.
Older ids, and the ids that gateways make, are not such numbers.
"""

import re
from datetime import UTC, datetime, timedelta

_EPOCH_MS = 1_568_028_518_778
_RANDOM_BITS = 22
_MIN_DIGITS, _MAX_DIGITS = 15, 19
_FIRST = datetime(2024, 1, 1, tzinfo=UTC)  # Kling's API did not exist before
_MAX_AHEAD = timedelta(days=1)  # of this machine's clock
_OLDER_ID = re.compile(r"[A-Za-z0-9_-]{22}")  # Kling's own until 2025
_SKEW = timedelta(minutes=1)  # between this machine's clock and Kling's


def created_at_hint(kling_id: str, *, now: datetime) -> datetime | None:
    """Return when Kling made the task with this id; None if the id does not decode to a plausible time."""
    if not (kling_id.isascii() and kling_id.isdecimal() and _MIN_DIGITS <= len(kling_id) <= _MAX_DIGITS):
        return None
    milliseconds = (int(kling_id) >> _RANDOM_BITS) + _EPOCH_MS
    created_at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return created_at if _FIRST <= created_at <= now + _MAX_AHEAD else None


def describe_id(kling_id: str, *, now: datetime) -> str:
    """Return what the form of an id tells a person: when Kling made the task, or that a gateway made up the id."""
    made_at = created_at_hint(kling_id, now=now)
    if made_at is not None:
        return f"made at {made_at:%Y-%m-%d %H:%M:%S} UTC by its number; a hint"
    return "" if _OLDER_ID.fullmatch(kling_id) else "not a number of Kling's; probably the gateway's own ID"


def may_be_made_between(kling_id: str, since: datetime, until: datetime) -> bool:
    """Return whether an id's time lies in a span, with a minute to spare for the clocks. False if it has no time."""
    made_at = created_at_hint(kling_id, now=until)
    return made_at is not None and since - _SKEW <= made_at <= until + _SKEW
