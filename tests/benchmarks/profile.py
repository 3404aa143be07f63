"""Flame graphs of the receiver under load: ``make bench ARGS="--profile acknowledged"``."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.processes import a_receiver, run_load, server_process
from benchmarks.workload import STATUSES, callbacks, new_deliveries, temp_folder, wait_until_counted

PROFILED = ("acknowledged", "delivered")
_SAMPLES_PER_SECOND = 500


def write_flame_graph(what: str, folder: Path) -> Path:
    """Run the receiver under load while py-spy samples it. Return the SVG file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{what}-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.svg"
    is_delivered = what == "delivered"
    with temp_folder() as path, server_process("sink", folder=path) as sink:
        with a_receiver(path, *([sink.port] if is_delivered else [])) as running:
            count, statuses = (5_000, STATUSES[-1:]) if is_delivered else (15_000, STATUSES)
            posts = callbacks(running, count, statuses=statuses)
            delivered, profiler = new_deliveries(path), _start_profiler(running.pid, file)
            run_load(running.public, posts, path)
            if is_delivered:
                wait_until_counted(delivered, len(posts))
        profiler.wait(60)  # it writes the file when the receiver has ended
    return file


def _start_profiler(pid: int, file: Path) -> subprocess.Popen[bytes]:
    py_spy = Path(sys.executable).parent / "py-spy"
    options = ["--rate", str(_SAMPLES_PER_SECOND), "--threads", "--output", str(file)]
    return subprocess.Popen([py_spy, "record", *options, "--pid", str(pid)], stderr=subprocess.DEVNULL)
