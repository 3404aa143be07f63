"""``make bench``: compares the receiver with common alternatives and prints a table."""

import argparse
import json
import platform
import sqlite3
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.measures import ALL, Measurement, Scale

_HEAD = f"{'figure':<36} {'ours':>11} {'baseline':>11} {'ratio':>6} {'goal':>7}  {'':<6}  notes"


def main(argv: list[str] | None = None) -> int:
    """Run the chosen measurements. Return 1 if ``--strict`` is set and a goal was missed."""
    asked = _parser().parse_args(argv)
    size = Scale(**{each.name: getattr(asked, each.name) for each in fields(Scale)})
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}\n\n{_HEAD}")
    began = time.perf_counter()
    measured = []
    for name in asked.only or ALL:
        for finding in ALL[name](size):
            print(_row(finding), flush=True)
            measured.append(finding)
    print(f"\nMedians of rounds taken in turns; {time.perf_counter() - began:.0f} s in all.")
    if asked.json:
        findings = [asdict(each) | {"value": each.value, "met": each.met} for each in measured]
        asked.json.write_text(json.dumps(findings, indent=2) + "\n")
    return 1 if asked.strict and not all(each.met for each in measured) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ALL), help="measure just this; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    for each in fields(Scale):
        flag = f"--{each.name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=each.default, help=f"default {each.default}")
    return parser


def _row(found: Measurement) -> str:
    ratio = "" if found.baseline is None else f"{found.value:.2f}"
    wanted = f"{'>=' if found.more_is_better else '<'} {found.goal:g}"
    verdict = "met" if found.met else "MISSED"
    ours, baseline = (_shown(number, found.unit) for number in (found.ours, found.baseline))
    return f"{found.name:<36} {ours:>11} {baseline:>11} {ratio:>6} {wanted:>7}  {verdict:<6}  {found.detail}"


def _shown(number: float | None, unit: str) -> str:
    if number is None:
        return ""
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.2f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
