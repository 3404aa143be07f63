"""``make bench``: compares the receiver with common alternatives and prints a table."""

import argparse
import platform
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.measurement import LEAST, Measurement, Scale
from benchmarks.measures import ALL
from benchmarks.processes import ROOT
from benchmarks.profile import PROFILED, ProfileError, write_flame_graph
from benchmarks.results import ResultsFile

ONLY_NAMED = ("grown", "postgres")
"""What takes minutes, or needs a server."""

RESULTS = ROOT / "var" / "bench"
_TERMINATED, _INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
_HEAD = f"{'figure':<42} {'ours':>10} {'baseline':>10} {'ratio':>6} {'target':>7}  {'':<6}  range of the rounds; notes"


def main(argv: list[str] | None = None) -> int:
    """Run the chosen measurements. Return 1 if ``--strict`` is set and a target was missed."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.profile:
        return _profile(parser, options)
    size = Scale(**{each.name: getattr(options, each.name) for each in fields(Scale)})
    file = options.json or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    try:
        results = ResultsFile(file, size)
    except OSError as error:
        parser.error(f"--json: cannot write {file}: {error.strerror}. Name a file in a folder that you may write to.")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}\n\n{_HEAD}")
    try:
        measured = _measure(options.only or [each for each in ALL if each not in ONLY_NAMED], size, results)
    finally:
        print(f"Written: {file}", flush=True)
    return 1 if options.strict and any(each.met is False for each in measured) else 0


def _measure(groups: Sequence[str], size: Scale, results: ResultsFile) -> Sequence[Measurement]:
    began, measured = time.perf_counter(), []
    for group in groups:
        for measurement in ALL[group](size):
            print(_row(measurement), flush=True)
            results.add(group, measurement)
            measured.append(measurement)
    results.finish()
    print(f"\nMedians of rounds taken in turns; {time.perf_counter() - began:.0f} s in all.")
    return measured


def _profile(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.only or options.peers or options.json or options.strict:
        parser.error("--profile measures no figures: leave out --only, --peers, --json and --strict")
    try:
        print(f"Written: {write_flame_graph(options.profile, RESULTS)}")
    except ProfileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ALL), help="measure only this; may be repeated")
    parser.add_argument(
        "--peers", action="store_true", help="compare with hookspool, Node-RED and procrastinate; installs them"
    )
    parser.add_argument("--profile", choices=PROFILED, help="write a flame graph of this instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there instead of var/bench")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    for each in fields(Scale):
        if each.type is int:
            least = LEAST.get(each.name, 1)
            flag, size, text = (
                f"--{each.name.replace('_', '-')}",
                partial(_size, least=least),
                f"default {each.default}",
            )
            parser.add_argument(flag, type=size, default=each.default, help=text)
    return parser


def _size(text: str, *, least: int) -> int:
    try:
        size = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if size < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}")
    return size


def _row(found: Measurement) -> str:
    ratio = "" if found.baseline is None else f"{found.value:.2f}"
    target = "" if found.target is None else f"{'>=' if found.more_is_better else '<='} {found.target:g}"
    verdict = {None: "", True: "met", False: "MISSED"}[found.met]
    ours, baseline = (_with_unit(number, found.unit) for number in (found.ours, found.baseline))
    notes = "; ".join(filter(None, [_range(found.rounds), found.detail]))
    return f"{found.name:<42} {ours:>10} {baseline:>10} {ratio:>6} {target:>7}  {verdict:<6}  {notes}".rstrip()


def _range(rounds: Sequence[float]) -> str:
    return f"{_number(min(rounds))} to {_number(max(rounds))}" if rounds else ""


def _with_unit(number: float | None, unit: str) -> str:
    return "" if number is None else f"{_number(number)} {unit}"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that the measured servers are stopped
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
