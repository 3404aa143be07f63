"""One figure of the benchmarks, its comparison and its goal."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Amount of work per measurement. The defaults take some three minutes on two idle cores."""

    rounds: int = 5
    callbacks: int = 3_000
    deliveries: int = 1_000
    slow_callbacks: int = 1_500
    scripts: int = 1_000
    submits: int = 500
    job_lines: int = 10_000
    probes: int = 300
    starts: int = 5
    events: int = 20_000
    pending: int = 5_000
    peers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One result: ours, the comparison if there is one, the goal, and what it is made of.

    The goal applies to the ratio of the two, or to ours alone. Without a goal the figure is for information.
    """

    name: str
    ours: float
    baseline: float | None = None
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    detail: str = ""

    @property
    def value(self) -> float:
        """The value that is judged."""
        return self.ours if self.baseline is None else self.ours / self.baseline

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal


def compare_rates(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, goal: float | None = None, detail: str = ""
) -> Measurement:
    """Compare rates per second that were measured alternately."""
    return _compared(name, ours, theirs, unit="/s", goal=goal, more_is_better=True, detail=detail)


def compare_times(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str = "ms",
    goal: float | None = None,
    detail: str = "",
) -> Measurement:
    """Compare times that were measured alternately."""
    return _compared(name, ours, theirs, unit=unit, goal=goal, more_is_better=False, detail=detail)


def _compared(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str,
    goal: float | None,
    more_is_better: bool,
    detail: str,
) -> Measurement:
    """Compare the medians: other work on the machine disturbs single rounds."""
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=False))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return Measurement(
        name=name,
        ours=statistics.median(ours),
        baseline=statistics.median(theirs),
        unit=unit,
        goal=goal,
        more_is_better=more_is_better,
        detail=f"{spread}; {detail}" if detail else spread,
    )


def single_value(name: str, ours: float, unit: str, *, goal: float | None = None, detail: str = "") -> Measurement:
    """Judge a cost by itself."""
    return Measurement(name=name, ours=ours, unit=unit, goal=goal, detail=detail)


def percentile(times: Sequence[float], percent: int) -> float:
    """Return the time that this percentage of the times does not exceed."""
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]


def value_range(values: Sequence[float], digits: int = 0) -> str:
    """Return the range of the values as text."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f} of {len(values)}"
