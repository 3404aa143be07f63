"""``make bench``: measures the receiver against the ways it is usually done, and prints a table."""

import argparse
import json
import platform
import sqlite3
import sys
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.measures import ALL, Measured, Size


def main(argv: list[str] | None = None) -> int:
    """Measure what was asked for; 1 with ``--strict`` when an aim was missed."""
    asked = _parser().parse_args(argv)
    size = Size(**{each.name: getattr(asked, each.name) for each in fields(Size)})
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}", flush=True)
    measured = []
    for name in asked.only or ALL:
        for finding in ALL[name](size):
            print(_row(finding), flush=True)
            measured.append(finding)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) | {"met": each.met} for each in measured], indent=2) + "\n")
    return 1 if asked.strict and not all(each.met for each in measured) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ALL), help="measure just this; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    parser.add_argument("--strict", action="store_true", help="end with 1 when an aim is missed")
    for each in fields(Size):
        parser.add_argument(f"--{each.name}", type=int, default=each.default, help=f"default {each.default}")
    return parser


def _row(found: Measured) -> str:
    wanted = f"{'>=' if found.more_is_better else '<'} {found.aim:g}"
    verdict = "met" if found.met else "MISSED"
    return f"{found.name:<40} {found.value:>8.2f} {found.unit:<4} {wanted:>7}  {verdict:<7} {found.detail}"


if __name__ == "__main__":
    sys.exit(main())
