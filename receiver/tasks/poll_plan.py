"""When a task is polled that no callback reports: close together around its expected end. Pure: no clock, no I/O.

A plan is made from the durations of past tasks of the same kind. It has at most eleven close polls. Each comes so soon
after the one before that an end between them is seen in time. If eleven do not reach from the shortest duration to the
longest, they cover as many durations as possible. Before them there is no poll; after them, each gap is half of the
task's age. While no duration is known, six polls are spread around a guess.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from receiver.settings import PollSettings

CLOSE_POLLS = 11
"""The most polls that follow each other closely."""

_GAP_RATIO = 0.095  # of the task's age: an end is seen within 10 % of it, with the time of the call
_MIN_GAP, _MAX_GAP = 0.9, 14.6  # seconds
_UNKNOWN_SPREAD = 1.5  # how far a duration may be from a single past one
_GUESS_STEPS = (0.4, 0.7, 1.0, 1.5, 2.5, 4.0)
_LEAST_MARGIN = 1.01
_WIDE_GAP_RATIO = 0.5  # after the close polls


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPlan:
    """The close polls of a task, as its ages in seconds."""

    ages: Sequence[float]

    def gap_after(self, age: float, *, polls: int) -> float:
        """Return the seconds until the next poll of a task of this age that was polled so often."""
        nearest = bisect_right(self.ages, age + _gap(age) / 2)  # a late poll replaces the planned one that is near
        if nearest < len(self.ages) and (polls < CLOSE_POLLS or nearest == 0):
            return self.ages[nearest] - age
        return max(age * _WIDE_GAP_RATIO, _MIN_GAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """How a task is polled and when it is given up. Without a ``plan`` callbacks are expected, so polls are sparse.

    ``first_within`` limits the delay of the first poll if the plan is only a guess.
    """

    after: timedelta
    every: timedelta
    stuck_after: timedelta | None
    give_up_after: timedelta
    plan: PollPlan | None = None
    first_within: timedelta | None = None


def poll_policy(settings: PollSettings, plan: PollPlan | None = None, *, is_guess: bool = False) -> PollPolicy:
    """Return the policy for a task with this plan."""
    return PollPolicy(
        after=settings.after,
        every=settings.every,
        stuck_after=settings.stuck_after,
        give_up_after=settings.give_up_after,
        plan=plan,
        first_within=settings.after if is_guess else None,
    )


def plan_polls(durations: Sequence[float], *, guess: float) -> PollPlan:
    """Plan the polls of a task whose kind had these *durations*, or for a *guess* if none is known. All are seconds."""
    if not durations:
        return PollPlan(ages=[guess * step for step in _GUESS_STEPS])
    known = sorted(durations)
    first, last = _most_covered(known)
    margin = 1 + (_UNKNOWN_SPREAD - 1) / len(known) ** 0.5
    while len(ages := _close_ages(first / margin, last * margin)) > CLOSE_POLLS and margin > _LEAST_MARGIN:
        margin **= 0.8
    return PollPlan(ages=ages[:CLOSE_POLLS])


def _most_covered(known: Sequence[float]) -> tuple[float, float]:
    """Return the shortest and the longest of those durations that the close polls can cover; as many as possible."""
    windows = []
    for index, shortest in enumerate(known):
        end = shortest
        for _ in range(CLOSE_POLLS - 1):
            end += _gap(end)
        windows.append((bisect_right(known, end) - index, index))
    count, index = max(windows, key=lambda window: window[0])
    return known[index], known[index + count - 1]


def _close_ages(first: float, last: float) -> list[float]:
    """Return close ages from just after *first* until *last* is covered."""
    ages = [first + _gap(first)]
    while ages[-1] < last:
        ages.append(ages[-1] + _gap(ages[-1]))
    return ages


def _gap(age: float) -> float:
    return min(max(age * _GAP_RATIO, _MIN_GAP), _MAX_GAP)
