"""What follows from a round of downloads for an event: tell its routes, try again, or give up. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from random import Random

from receiver.domain.model import ArchiveState
from receiver.events.factory import MAX_ARCHIVE_WAIT

REFUSAL_GRACE = timedelta(seconds=30)
"""How long a URL is tried although it is refused: what was made a moment ago may not be everywhere yet."""

WARN_AFTER = timedelta(hours=12)
"""After so long without a file an alert says that it may be lost: some URLs live for no more than a day."""

GIVE_UP_AFTER = timedelta(days=30)
"""How long URLs live at the longest."""

_MIN_WAIT, _MAX_WAIT = timedelta(seconds=2), timedelta(minutes=30)
_JITTER = 0.2


class ArchiveAlert(StrEnum):
    """What is said about results."""

    LOST = "asset_lost"  # routes are told without them
    EXPIRING = "asset_expiring"
    RECOVERED = "asset_recovered"  # they came home after routes were told without them


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingResult:
    """A result that did not come home this time; ``is_dead`` when trying again would be of no use.

    ``is_refused`` says that it was for its URL: there may be a fresh one. ``path`` is where the file lies all the same.
    """

    number: int
    url: str
    reason: str
    is_permanent: bool = False
    url_refused: bool = False
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveDecision:
    """What follows: ``archiving`` None ends it, else the event is looked after again after ``wait``.

    ``deliver`` lets the routes be told now.
    """

    archiving: ArchiveState | None
    wait: timedelta | None = None
    deliver: bool = False
    alert: ArchiveAlert | None = None


def decide(state: ArchiveState, missing: Sequence[MissingResult], *, age: timedelta, rng: Random) -> ArchiveDecision:
    """Decide how it goes on with an event of that *age*, counted from when it happened."""
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
    """Wait half as long again as it has taken so far, but not past a moment at which there is something to decide."""
    wait = min(max(age / 2, _MIN_WAIT), _MAX_WAIT) * (1 + rng.uniform(-_JITTER, _JITTER))
    ahead = [moment - age for moment in (REFUSAL_GRACE, MAX_ARCHIVE_WAIT, WARN_AFTER, GIVE_UP_AFTER) if moment > age]
    return min(wait, *ahead) if ahead else wait
