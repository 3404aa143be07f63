"""The report of the soak tests: Markdown to publish, JSON for programs.

A soak test is marked ``soak("its title in the report", minutes=31)`` and reports its counts by the fixture
``record_counts``. `make soak` runs only these. The report is updated after each run, so that an interrupted soak leaves
its results.
"""

import json
import os
import platform
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter
from harness.source import tested_commit

from receiver import __version__
from receiver.domain.clock import SystemClock

RecordCounts = Callable[..., None]
"""Takes counts and seeds by name: ``record_counts(seed=7, cuts=300)``. A later value replaces an earlier one."""

TABLE_HEADER = "| run | seed | counts | time | verdict |\n|---|---|---|---|---|\n"
PUBLISHED_PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "httpx2", "aiosqlite")
"""Packages named in the published report. The JSON lists all."""

_MARK = "soak"
_MINUTE, _HOUR = 60, 3600


@dataclass(slots=True, kw_only=True)
class Run:
    """One test of the soak: title, counts and verdict."""

    title: str
    test: str
    verdict: str = "unfinished"
    why: str = ""
    seconds: float = 0.0
    counts: dict[str, Any] = field(default_factory=dict)

    def add_phase(self, report: pytest.TestReport) -> None:
        """Add the result of one phase of the test."""
        self.seconds += report.duration
        self.counts |= {name: count for name, count in report.user_properties if name != _MARK}
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)  # a dead worker leaves plain text
            self.verdict, self.why = "failed", crash.message if crash else report.longreprtext
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.verdict, self.why = "skipped", reason.removeprefix("Skipped: ")
        elif report.when == "call" and self.verdict == "unfinished":
            self.verdict = "held"


@dataclass(slots=True, kw_only=True)
class Report:
    """All results of a soak, and the versions under test."""

    started_at: datetime
    seconds: float = 0.0
    is_finished: bool = False
    product: str = __version__
    commit: str = "unknown"
    python: str = platform.python_version()
    sqlite: str = sqlite3.sqlite_version
    packages: Mapping[str, str] = field(default_factory=dict)
    cores: int = os.cpu_count() or 0
    system: str = f"{platform.system()} {platform.release()} {platform.machine()}"
    runs: list[Run] = field(default_factory=list)

    def verdict(self) -> str:
        """Return the counts of each verdict in words."""
        found = {each: sum(run.verdict == each for run in self.runs) for each in ("held", "failed", "skipped")}
        counts = ", ".join(f"{count} {word}" for word, count in found.items() if count or word == "held")
        return counts if self.is_finished else f"NOT FINISHED, so far {counts}"

    def markdown(self) -> str:
        """Return the report as Markdown, in the form that receiver/docs/promises.md shows."""
        packages = ", ".join(f"{name} {self.packages[name]}" for name in PUBLISHED_PACKAGES if name in self.packages)
        return (
            f"{self.started_at:%Y-%m-%d}, version {self.product} at {self.commit}, {self.cores} cores, {self.system}, "
            f"Python {self.python}, SQLite {self.sqlite}, {packages}: "
            f"{len(self.runs)} runs in {duration_text(self.seconds)}, {self.verdict()}.\n\n"
            + TABLE_HEADER
            + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in map(_row, self.runs))
        )

    def as_json(self) -> str:
        """Return the report as JSON."""
        report = asdict(self) | {"started_at": self.started_at.isoformat(timespec="seconds"), "verdict": self.verdict()}
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _row(run: Run) -> Iterable[str]:
    counts = "; ".join(count_text(name, count) for name, count in run.counts.items() if name != "seed")
    verdict = run.verdict if not run.why else f"{run.verdict.upper()}: {run.why.splitlines()[0]}"
    return run.title, str(run.counts.get("seed", "")), counts, duration_text(run.seconds), verdict


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def count_text(name: str, count: object) -> str:
    """Format a count for people: ``cuts=10000`` is "10,000 cuts"."""
    words = name.replace("_", " ")
    match count:
        case dict():
            return f"{words} " + ", ".join(f"{key}: {each:,}" for key, each in sorted(count.items()))
        case int() | float():
            return f"{count:,} {words}"
        case _:
            return f"{words} {count}"


def duration_text(seconds: float) -> str:
    """Format a duration."""
    whole = round(seconds)
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def serializable(count: object) -> object:
    """Convert a count to a value that a worker can send to the report."""
    match count:
        case bool() | int() | float() | str():
            return count
        case Mapping():
            return {str(key): serializable(each) for key, each in count.items()}
        case _:
            return str(count)


def attach_titles(items: Iterable[pytest.Item]) -> None:
    """Attach to each marked test its title in the report."""
    for item in items:
        mark = item.get_closest_marker(_MARK)
        if mark is not None:
            case = f" ({item.callspec.id})" if hasattr(item, "callspec") and item.callspec.id else ""
            item.user_properties.append((_MARK, f"{mark.args[0]}{case}"))


def balance_workers(items: list[pytest.Item]) -> None:
    """Order the tests so that each worker starts with a long test and a short one.

    A worker gets two tests at first, and then one at a time.
    """
    by_weight = sorted(items, key=_expected_minutes, reverse=True)
    half = (len(by_weight) + 1) // 2
    long, short = by_weight[:half], by_weight[half:][::-1]
    items[::2], items[1::2] = long, short


def longest_first(items: list[pytest.Item]) -> None:
    """Move the longest tests to the front, then those of ``chaos``, and keep the order of all others."""
    items.sort(key=lambda item: (_expected_minutes(item), "chaos" in item.path.parts), reverse=True)


def _expected_minutes(item: pytest.Item) -> float:
    mark = item.get_closest_marker(_MARK)
    return float(mark.kwargs.get("minutes", 0)) if mark is not None else 0.0


class SoakRecorder:
    """Collects the results, and keeps the report file up to date."""

    def __init__(self, folder: Path) -> None:
        self._clock = SystemClock()
        now = self._clock.now()
        self._path = folder / f"soak-{now:%Y%m%dT%H%M%SZ}"
        self._report = Report(started_at=now, commit=tested_commit(), packages=_packages())
        self._runs: dict[str, Run] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        title = dict(report.user_properties).get(_MARK)
        run = self._runs.get(report.nodeid)
        if run is None:
            if title is None and not report.failed:
                return
            run = self._runs[report.nodeid] = Run(title=str(title or report.nodeid), test=report.nodeid)
            self._report.runs.append(run)
        run.add_phase(report)
        if report.when != "setup" or not report.passed:
            self._write()

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        all_ran = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        self._report.is_finished = all_ran and not (session.shouldfail or session.shouldstop)
        self._write()

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        terminalreporter.section("soak")
        terminalreporter.write_line(self._report.markdown())
        terminalreporter.write_line(f"The report is in {self._path}.md and {self._path.name}.json.")

    def _write(self) -> None:
        self._report.seconds = (self._clock.now() - self._report.started_at).total_seconds()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.with_suffix(".md").write_text(self._report.markdown(), encoding="utf-8")
        self._path.with_suffix(".json").write_text(self._report.as_json(), encoding="utf-8")


def _packages() -> Mapping[str, str]:
    """Return the versions of the runtime dependencies."""
    needed = metadata.requires("kling-receiver") or []
    names = [found[0] for each in needed if "extra ==" not in each and (found := re.match(r"[\w.-]+", each))]
    return {name: metadata.version(name) for name in sorted(names)}
