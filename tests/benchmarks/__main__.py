"""``make bench``: compares the receiver with common alternatives and prints a table."""

import argparse
import json
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measurement import Measurement, Scale
from benchmarks.measures import ALL
from benchmarks.processes import ROOT
from benchmarks.profile import PROFILED, write_flame_graph

ONLY_NAMED = ("grown", "postgres")
"""What takes minutes, or needs a server."""

RESULTS = ROOT / "var" / "bench"
_HEAD = f"{'figure':<42} {'ours':>10} {'baseline':>10} {'ratio':>6} {'goal':>7}  {'':<6}  range of ratios; notes"


def main(argv: list[str] | None = None) -> int:
    """Run the chosen measurements. Return 1 if ``--strict`` is set and a goal was missed."""
    options = _parser().parse_args(argv)
    if options.profile:
        print(f"Written: {write_flame_graph(options.profile, RESULTS)}")
        return 0
    size = Scale(**{each.name: getattr(options, each.name) for each in fields(Scale)})
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}\n\n{_HEAD}")
    began = time.perf_counter()
    measured = []
    for name in options.only or [each for each in ALL if each not in ONLY_NAMED]:
        for measurement in ALL[name](size):
            print(_row(measurement), flush=True)
            measured.append(measurement)
    print(f"\nMedians of rounds taken in turns; {time.perf_counter() - began:.0f} s in all.")
    print(f"Written: {_write(measured, options.json)}")
    return 1 if options.strict and not all(each.met for each in measured) else 0


def _write(measured: Sequence[Measurement], file: Path | None) -> Path:
    file = file or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(each) | {"value": each.value, "met": each.met} for each in measured]
    machine = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "machine": platform.platform()}
    file.write_text(json.dumps({**machine, "cores": os.cpu_count(), "figures": rows}, indent=2) + "\n")
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ALL), help="measure only this; may be repeated")
    parser.add_argument(
        "--peers", action="store_true", help="compare with hookspool, Node-RED and procrastinate; installs them"
    )
    parser.add_argument("--profile", choices=PROFILED, help="write a flame graph of this instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there instead of var/bench")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    for each in fields(Scale):
        if each.type is int:
            flag = f"--{each.name.replace('_', '-')}"
            parser.add_argument(flag, type=int, default=each.default, help=f"default {each.default}")
    return parser


def _row(found: Measurement) -> str:
    ratio = "" if found.baseline is None else f"{found.value:.2f}"
    goal = "" if found.goal is None else f"{'>=' if found.more_is_better else '<='} {found.goal:g}"
    verdict = "" if found.goal is None else "met" if found.met else "MISSED"
    ours, baseline = (_with_unit(number, found.unit) for number in (found.ours, found.baseline))
    return f"{found.name:<42} {ours:>10} {baseline:>10} {ratio:>6} {goal:>7}  {verdict:<6}  {found.detail}"


def _with_unit(number: float | None, unit: str) -> str:
    if number is None:
        return ""
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.2f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
