"""How long the service takes to start, and the commands that people type all day."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measurement import Measurement, Scale, compare_times, median_value
from benchmarks.processes import ROOT, a_receiver
from benchmarks.workload import temp_folder

_COMMANDS = {"--version": (["--version"], 80), "tasks list": (["tasks", "list"], 200)}


def start(size: Scale) -> Iterator[Measurement]:
    """Time from the start of the process to READY."""
    with temp_folder() as path:
        times = []
        for _ in range(size.starts):
            with a_receiver(path) as running:
                times.append(running.startup_seconds)
    yield median_value("process start to ready", times, "s", target=0.4)


def commands(size: Scale) -> Iterator[Measurement]:
    """Commands against a running service, beside a Python that does nothing."""
    with temp_folder() as path, a_receiver(path) as running:
        for name, (argv, target) in _COMMANDS.items():
            ours, bare = [], []
            for _ in range(size.starts + 1):
                bare.append(_milliseconds(path, running.config, "-c", "pass"))
                ours.append(_milliseconds(path, running.config, "-m", "receiver", *argv))
            ours, bare = ours[1:], bare[1:]  # the first run warms the file cache
            yield median_value(name, ours, "ms", target=target)
            yield compare_times(f"{name} / bare Python", ours, bare)


def _milliseconds(folder: Path, config: Path, *argv: str) -> float:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "KLING_RECEIVER_CONFIG": str(config),
    }
    began = time.perf_counter()
    subprocess.run([sys.executable, *argv], cwd=folder, env=env, check=True, capture_output=True, timeout=60)
    return (time.perf_counter() - began) * 1000
