"""One figure of the benchmarks, its comparison and its target."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


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


LEAST: Mapping[str, int] = MappingProxyType({"callbacks": 3, "events": 1_000, "pending": 100})
"""The least that a size may be, if it is not 1: a callback of each status, and as much as ``grown`` compares with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One result: ours, the comparison if there is one, the target, and what it is made of.

    The target applies to the ratio of the two, or to ours alone. Without a target the figure is for information.
    ``rounds`` has the same value for each round.
    """

    name: str
    ours: float
    baseline: float | None = None
    unit: str
    target: float | None = None
    more_is_better: bool = False
    rounds: Sequence[float] = ()
    detail: str = ""

    @property
    def value(self) -> float:
        """The value that is judged."""
        return self.ours if self.baseline is None else self.ours / self.baseline

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.more_is_better else self.value <= self.target


def compare_rates(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, target: float | None = None, detail: str = ""
) -> Measurement:
    """Compare rates per second that were measured alternately."""
    return _compared(name, ours, theirs, unit="/s", target=target, more_is_better=True, detail=detail)


def compare_times(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str = "ms",
    target: float | None = None,
    detail: str = "",
) -> Measurement:
    """Compare times that were measured alternately."""
    return _compared(name, ours, theirs, unit=unit, target=target, more_is_better=False, detail=detail)


def _compared(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str,
    target: float | None,
    more_is_better: bool,
    detail: str,
) -> Measurement:
    """Compare the medians: other work on the machine disturbs single rounds."""
    return Measurement(
        name=name,
        ours=statistics.median(ours),
        baseline=statistics.median(theirs),
        unit=unit,
        target=target,
        more_is_better=more_is_better,
        rounds=[mine / other for mine, other in zip(ours, theirs, strict=False)],
        detail=detail,
    )


def single_value(name: str, ours: float, unit: str, *, target: float | None = None, detail: str = "") -> Measurement:
    """Judge a cost by itself."""
    return Measurement(name=name, ours=ours, unit=unit, target=target, detail=detail)


def percentile(times: Sequence[float], percent: int) -> float:
    """Return the time that this percentage of the times does not exceed."""
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]


def median_value(name: str, ours: Sequence[float], unit: str, *, target: float | None = None) -> Measurement:
    """Judge a cost by itself, by the median of its rounds."""
    return Measurement(name=name, ours=statistics.median(ours), unit=unit, target=target, rounds=list(ours))
