"""What follows from a round of downloads for an event: tell its routes, try again, or give up. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from random import Random

from receiver.domain.model import Archiving
from receiver.events.factory import HELD_BACK

SURELY_DEAD = timedelta(seconds=30)
"""How long a URL is tried although it is refused: what was made a moment ago may not be everywhere yet."""

WARN_AFTER = timedelta(hours=12)
"""After so long without a file an alert says that it may be lost: some URLs live for no more than a day."""

GIVE_UP_AFTER = timedelta(days=30)
"""How long URLs live at the longest."""

_SHORTEST, _LONGEST = timedelta(seconds=2), timedelta(minutes=30)
_JITTER = 0.2


class Alert(StrEnum):
    """What is said about results."""

    LOST = "asset_lost"  # routes are told without them
    EXPIRING = "asset_expiring"
    RECOVERED = "asset_recovered"  # they came home after routes were told without them


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A result that did not come home this time; ``is_dead`` when trying again would be of no use.

    ``is_refused`` says that it was for its URL: there may be a fresh one. ``path`` is where the file lies all the same.
    """

    number: int
    url: str
    reason: str
    is_dead: bool = False
    is_refused: bool = False
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows: ``archiving`` None ends it, else the event is looked after again after ``wait``.

    ``deliver`` lets the routes be told now.
    """

    archiving: Archiving | None
    wait: timedelta | None = None
    deliver: bool = False
    alert: Alert | None = None


def judge(stage: Archiving, missing: Sequence[Missing], *, age: timedelta, rng: Random) -> Verdict:
    """Decide how it goes on with an event of that *age*, counted from when it happened."""
    if not missing:
        is_late = stage is not Archiving.AWAITED
        return Verdict(archiving=None, deliver=True, alert=Alert.RECOVERED if is_late else None)
    if age >= GIVE_UP_AFTER or (age >= SURELY_DEAD and all(result.is_dead for result in missing)):
        return Verdict(archiving=None, deliver=True, alert=Alert.LOST)
    match stage:
        case Archiving.AWAITED if age >= HELD_BACK:
            return Verdict(archiving=Archiving.LATE, wait=_wait(age, rng), deliver=True, alert=Alert.LOST)
        case Archiving.LATE if age >= WARN_AFTER:
            return Verdict(archiving=Archiving.EXPIRING, wait=_wait(age, rng), alert=Alert.EXPIRING)
        case _:
            return Verdict(archiving=stage, wait=_wait(age, rng))


def _wait(age: timedelta, rng: Random) -> timedelta:
    """Wait half as long again as it has taken so far, but not past a moment at which there is something to decide."""
    wait = min(max(age / 2, _SHORTEST), _LONGEST) * (1 + rng.uniform(-_JITTER, _JITTER))
    ahead = [moment - age for moment in (SURELY_DEAD, HELD_BACK, WARN_AFTER, GIVE_UP_AFTER) if moment > age]
    return min(wait, *ahead) if ahead else wait
