"""Flame graphs of the receiver under load: ``make bench ARGS="--profile acknowledged"``."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.processes import a_receiver, a_storing_receiver, run_load, server_process
from benchmarks.workload import STATUSES, callbacks, new_deliveries, temp_folder, wait_until_counted

PROFILED = {"acknowledged": 15_000, "delivered": 5_000}
"""What can be profiled, and with how many callbacks."""

PY_SPY = Path(sys.executable).parent / "py-spy"
_SAMPLES_PER_SECOND = 500
_MAX_WRITING = 60.0


class ProfileError(RuntimeError):
    """py-spy wrote no flame graph; the text says why."""


def write_flame_graph(what: str, folder: Path) -> Path:
    """Run the receiver under load while py-spy samples it. Return the SVG file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{what}-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.svg"
    is_delivered = what == "delivered"
    with temp_folder() as path, server_process("sink", folder=path) as sink:
        with a_receiver(path, sink.port) if is_delivered else a_storing_receiver(path) as running:
            posts = callbacks(running, PROFILED[what], statuses=STATUSES[-1:] if is_delivered else STATUSES)
            delivered, profiler = new_deliveries(path), _start_profiler(running.pid, file, path / "py-spy.log")
            run_load(running.public, posts, path)
            if is_delivered:
                wait_until_counted(delivered, len(posts))
        code = profiler.wait(_MAX_WRITING)  # it writes the file when the receiver has ended
        said = (path / "py-spy.log").read_text(errors="replace").strip()
    if code != 0 or not file.exists():
        raise ProfileError(f"py-spy ended with {code} and wrote no flame graph. It said:\n{said}")
    return file


def _start_profiler(pid: int, file: Path, log: Path) -> subprocess.Popen[bytes]:
    options = ["--rate", str(_SAMPLES_PER_SECOND), "--threads", "--output", str(file)]
    command = [str(PY_SPY), "record", *options, "--pid", str(pid)]
    try:
        with log.open("wb") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    except FileNotFoundError as error:
        raise ProfileError("py-spy is missing. `make bench` installs it with the development tools.") from error
