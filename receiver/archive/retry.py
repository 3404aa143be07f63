"""Decide what follows a round of downloads: deliver the event, retry, or give up. Pure."""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from random import Random

import msgspec

from receiver.domain.model import ArchiveState
from receiver.events.factory import MAX_ARCHIVE_WAIT

REFUSAL_GRACE = timedelta(seconds=30)
"""How long a refused URL is retried: a new file may not have reached every server of the CDN yet."""

WARN_AFTER = timedelta(hours=12)
"""An alert warns if a file is missing for this long: some URLs expire after one day."""

GIVE_UP_AFTER = timedelta(days=30)
"""The longest lifetime of a URL."""

_MIN_WAIT, _MAX_WAIT = timedelta(seconds=2), timedelta(minutes=30)
_JITTER = 0.2


class ArchiveAlert(StrEnum):
    """Alerts about results."""

    LOST = "asset_lost"  # delivered without them
    EXPIRING = "asset_expiring"
    RECOVERED = "asset_recovered"  # archived after the event was delivered without them


class MissingResult(msgspec.Struct, frozen=True, kw_only=True):
    """A result that was not archived in this round.

    ``is_permanent``: a retry cannot succeed. ``url_refused``: a fresh URL may help. ``path``: the local file,
    if only the copy failed.
    """

    number: int
    url: str
    reason: str
    is_permanent: bool = False
    url_refused: bool = False
    path: str | None = None


class ArchiveDecision(msgspec.Struct, frozen=True, kw_only=True):
    """What follows: ``archiving`` None ends the job, otherwise the next round starts after ``wait``.

    ``deliver`` starts the event's deliveries now.
    """

    archiving: ArchiveState | None
    wait: timedelta | None = None
    deliver: bool = False
    alert: ArchiveAlert | None = None


def decide(state: ArchiveState, missing: Sequence[MissingResult], *, age: timedelta, rng: Random) -> ArchiveDecision:
    """Decide what follows for an event of this *age*, counted from its creation."""
    if not missing:
        is_late = state is not ArchiveState.PENDING
        return ArchiveDecision(archiving=None, deliver=True, alert=ArchiveAlert.RECOVERED if is_late else None)
    if age >= GIVE_UP_AFTER or (age >= REFUSAL_GRACE and all(result.is_permanent for result in missing)):
        return ArchiveDecision(archiving=None, deliver=True, alert=ArchiveAlert.LOST)
    match state:
        case ArchiveState.PENDING if age >= MAX_ARCHIVE_WAIT:
            return ArchiveDecision(
                archiving=ArchiveState.LATE, wait=_wait(age, rng), deliver=True, alert=ArchiveAlert.LOST
            )
        case ArchiveState.LATE if age >= WARN_AFTER:
            return ArchiveDecision(archiving=ArchiveState.EXPIRING, wait=_wait(age, rng), alert=ArchiveAlert.EXPIRING)
        case _:
            return ArchiveDecision(archiving=state, wait=_wait(age, rng))


def _wait(age: timedelta, rng: Random) -> timedelta:
    """Return half of *age* within bounds, but never past the next age at which the decision changes."""
    wait = min(max(age / 2, _MIN_WAIT), _MAX_WAIT) * (1 + rng.uniform(-_JITTER, _JITTER))
    ahead = [moment - age for moment in (REFUSAL_GRACE, MAX_ARCHIVE_WAIT, WARN_AFTER, GIVE_UP_AFTER) if moment > age]
    return min(wait, *ahead) if ahead else wait
