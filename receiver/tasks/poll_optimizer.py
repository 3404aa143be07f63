"""When a task is polled that no callback reports, by how likely each duration is. Pure: no clock, no I/O.

A poll sees an end in time if it comes within a tenth of the task's duration, at least 1 s and at most 15 s. A plan
chooses the polls that see the most likely ends in time: close together where many tasks end, none before. A task that
still runs after them is polled at growing gaps. Until its tenth minute it is polled at most 12 times, as long as each
gap may be five minutes.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import TypeAlias

import msgspec

from receiver.settings import PollSettings
from receiver.tasks.duration_estimate import Peak, likelihoods

MAX_POLLS = 12
"""The most polls until the tenth minute of a task."""

_IN_TIME, _LEAST_IN_TIME, _MOST_IN_TIME = 0.1, 1.0, 15.0  # of the duration; seconds
_CALL = 0.13  # seconds that the moment of a call varies
_LAST_PLANNED = 603.0  # seconds; an end before ten minutes is seen by this poll
_LONGEST_GAP = 300.0  # seconds, before that
_GROWING_GAP = 0.5  # of the age; afterwards
_LEAST_GAIN, _LEAST_GAIN_OF_GUESS = 0.003, 0.012  # of the ends: a poll that sees fewer in time is not worth it
_CELLS = 5  # between two close polls
_LAST_EDGE = 4 * 3600.0


class PollPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The best next poll for each number of polls left and each age, as numbers of the cells of :func:`_edges`.

    ``first`` is the first cell. In ``next_cells`` are, for each number of polls that are left, the cells whose ends
    the next poll sees first. A missing cell means that no poll is worth it.
    """

    first: int
    next_cells: Sequence[Sequence[int]]

    def gap_after(self, age: float, *, polls: int) -> float:
        """Return the seconds until the next poll of a task of this age that was polled so often."""
        left = max(MAX_POLLS - polls, 0)
        cell = max(bisect_right(_edges(), age - _CALL / 2) - 1 - self.first, 0)
        if left and cell < len(self.next_cells[left]):
            chosen = self.next_cells[left][cell]
            if chosen >= 0:
                return max(_edges()[self.first + chosen + _CELLS] - age, _LEAST_IN_TIME / 2)
        return _unlikely_gap(age, left)


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
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


def plan_polls(peaks: Sequence[Peak], *, known: int) -> PollPlan:
    """Plan the polls of a task whose duration is so likely; *known* past durations say so.

    For each number of polls left and each cell, from the last cell on: either the next poll sees the ends in this
    cell, and then those of as many as it sees in time, or it leaves them.
    """
    start, cells = likelihoods(peaks, _logarithms())
    seen = [0.0]
    for each in cells:
        seen.append(seen[-1] + each)
    total, gain = seen[-1] or 1.0, _LEAST_GAIN + _LEAST_GAIN_OF_GUESS / (known + 1)
    rows, values = [(-1,) * len(cells)], [0.0] * (len(cells) + _CELLS)
    for left in range(1, MAX_POLLS + 1):
        row, values = _plan_row(left, start, [each / total for each in seen], values, gain)
        rows.append(row)
    return PollPlan(first=start, next_cells=tuple(rows))


_Row: TypeAlias = tuple[tuple[int, ...], list[float]]


def _plan_row(left: int, start: int, seen: Sequence[float], values: Sequence[float], gain: float) -> _Row:
    """Return the next cell for each cell, and the share of ends seen in time; *values* is that with one poll less."""
    count, edges = len(seen) - 1, _edges()
    best, chosen = [0.0] * (count + _CELLS), [-1] * (count + 1)
    for cell in range(count - 1, -1, -1):
        best[cell], chosen[cell] = best[cell + 1], chosen[cell + 1]
        if left <= _reserved(edges[start + cell + _CELLS]):
            continue
        share = seen[min(cell + _CELLS, count)] - seen[cell] + values[cell + _CELLS] - gain * (1 - seen[cell])
        if share > best[cell]:
            best[cell], chosen[cell] = share, cell
    return tuple(chosen[:count]), best


def _reserved(age: float) -> int:
    """Return how many polls are kept for after a poll at this age, so that 12 reach the tenth minute."""
    return max(math.ceil((_LAST_PLANNED - age) / _LONGEST_GAP), 0)


def _unlikely_gap(age: float, left: int) -> float:
    """Return the gap at an age after which few tasks end: the polls left are spread until the tenth minute."""
    if age >= _LAST_PLANNED - _MOST_IN_TIME:
        return age * _GROWING_GAP
    if left <= 1:
        return _LAST_PLANNED - age
    start = max(age, 1.0)
    growing = start * math.pow(_LAST_PLANNED / start, 1 / left)
    return max(growing, _LAST_PLANNED - _LONGEST_GAP * (left - 1)) - age


@cache
def _edges() -> Sequence[float]:
    """Return the ages between the cells. A poll sees all ends of the last five cells in time."""
    edges = list(_first_edges())
    while edges[-1] < _LAST_EDGE:
        edges.append(edges[-_CELLS] + _seen_in_time(edges[-_CELLS]))
    return edges


def _first_edges() -> Iterator[float]:
    for number in range(_CELLS):
        yield 1.0 + number * _seen_in_time(1.0) / _CELLS


@cache
def _logarithms() -> Sequence[float]:
    return [math.log(edge) for edge in _edges()[:-_CELLS]]


def _seen_in_time(age: float) -> float:
    """Return how long after a poll at this age the next may come. After ten minutes it grows with the age."""
    longest = max(_MOST_IN_TIME, _MOST_IN_TIME / _LAST_PLANNED * age)
    return min(max(_IN_TIME * age, _LEAST_IN_TIME), longest) - _CALL
