"""Estimates how long a task will take, from past tasks of its kind and from those still running. Pure.

Durations are compared by their logarithms. Many past durations speak for themselves: each makes durations like it
likely. From few, the usual duration of the kind is inferred: it must explain them, and also why other tasks still run.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

FEW_DURATIONS = 6
"""With fewer past durations the usual one is inferred, also from running tasks."""

_USUAL_SPREAD = 0.15  # of the durations of a kind
_SPREAD_WEIGHT = 3  # the usual spread counts as much as so many durations
_GUESS_SPREAD = 0.7  # a guess is often wrong by a factor of two
_SIBLING_SPREAD = 0.3  # how much the kinds of one endpoint differ
_MOST_DEVIATION = 0.4  # tasks that take far longer do not widen the spread
_EXCEPTION = 0.03  # the likelihood of a task that takes much longer or shorter than usual
_BANDWIDTH, _BANDWIDTH_OF_FEW = 1.2, 0.5
_CANDIDATES = 60
_REACH = 2.2  # of the candidates around the guess
_LEAST_LIKELIHOOD = 0.001
_EDGE = 3.0  # spreads around a center


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """A likelihood of durations around a center; center and spread are of the logarithms."""

    weight: float
    center: float
    spread: float

    @property
    def shortest(self) -> float:
        """The logarithm of the shortest duration that counts."""
        return self.center - _EDGE * self.spread

    @property
    def longest(self) -> float:
        """The logarithm of the longest duration that counts."""
        return self.center + _EDGE * self.spread

    def below(self, logarithm: float) -> float:
        """Return the likelihood of durations below this one."""
        return self.weight * _share_below((logarithm - self.center) / self.spread)


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a kind of tasks. All are seconds.

    ``durations`` are those of past tasks, ``running`` the ages at which tasks were still running, ``siblings`` the
    durations of other kinds at the same endpoint.
    """

    guess: float
    durations: Sequence[float] = ()
    running: Sequence[float] = ()
    siblings: Sequence[float] = ()


def estimate_duration(known: Knowledge) -> Sequence[Peak]:
    """Return how likely each duration is, as a sum of peaks."""
    past = _logarithms(known.durations)
    spread = _spread(past)
    if len(past) < FEW_DURATIONS:
        return _infer_usual(known, past, spread)
    count = len(past)
    width = spread * (_BANDWIDTH * count**-0.2 + _BANDWIDTH_OF_FEW / count)
    return [Peak(weight=1.0, center=each, spread=width) for each in past]


def likelihoods(peaks: Sequence[Peak], edges: Sequence[float]) -> tuple[int, Sequence[float]]:
    """Return the first cell that any of the peaks reaches, and the likelihood of each cell from there on.

    *edges* are the logarithms of the ages between the cells.
    """
    last_cell = len(edges) - 2

    def reach(peak: Peak) -> tuple[int, int]:
        first = max(bisect_right(edges, peak.shortest) - 1, 0)
        return min(first, last_cell), min(bisect_right(edges, peak.longest), last_cell + 1)

    reaches = [reach(peak) for peak in peaks]
    start, end = min(first for first, _ in reaches), max(after for _, after in reaches)
    cells = [0.0] * (end - start)
    for peak, (first, after) in zip(peaks, reaches, strict=True):
        below = peak.below(edges[first])
        for cell in range(first, after):
            until = peak.below(edges[cell + 1])
            cells[cell - start] += until - below
            below = until
    return start, cells


def _infer_usual(known: Knowledge, past: Sequence[float], spread: float) -> Sequence[Peak]:
    """Weigh candidates for the kind's usual duration by how well they explain what is known."""
    running, siblings, guess = _logarithms(known.running), _logarithms(known.siblings), math.log(known.guess)
    candidates = list(_candidates(guess, [*past, *running]))
    scores = []
    for usual in candidates:
        prior = _density((usual - guess) / _GUESS_SPREAD) / _GUESS_SPREAD
        if siblings:
            near = sum(_density((usual - each) / _SIBLING_SPREAD) for each in siblings)
            prior += near / len(siblings) / _SIBLING_SPREAD
        score = math.log(prior)
        score += sum(math.log(_density((each - usual) / spread) + _EXCEPTION) for each in past)
        score += sum(math.log(1 - _share_below((each - usual) / spread) + _EXCEPTION) for each in running)
        scores.append(score)
    best = max(scores)
    return [
        Peak(weight=weight, center=usual, spread=spread)
        for usual, score in zip(candidates, scores, strict=True)
        if (weight := math.exp(score - best)) >= _LEAST_LIKELIHOOD
    ]


def _candidates(guess: float, seen: Sequence[float]) -> Iterator[float]:
    lowest, highest = min(guess - _REACH, *seen, guess), max(guess + _REACH, *(each + 1 for each in seen), guess)
    for number in range(_CANDIDATES):
        yield lowest + (highest - lowest) * number / (_CANDIDATES - 1)


def _spread(past: Sequence[float]) -> float:
    """Return the spread of durations, which is near the usual one while few are known."""
    if not past:
        return _USUAL_SPREAD
    from statistics import median  # noqa: PLC0415 -- a service whose callbacks arrive does not need it

    middle = median(past)
    deviation = sum(min(abs(each - middle), _MOST_DEVIATION) ** 2 for each in past)
    return math.sqrt((_SPREAD_WEIGHT * _USUAL_SPREAD**2 + deviation) / (_SPREAD_WEIGHT + len(past)))


def _logarithms(seconds: Sequence[float]) -> Sequence[float]:
    return [math.log(max(each, 1.0)) for each in seconds]


def _density(distance: float) -> float:
    return math.exp(-distance * distance / 2)


def _share_below(distance: float) -> float:
    return math.erfc(-distance / math.sqrt(2)) / 2
