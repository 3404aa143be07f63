"""What a submit costs, one at a time and from a file of many jobs."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.cpu import CpuMeter
from benchmarks.measurement import Measurement, Scale, compare_rates, compare_times, single_value
from benchmarks.processes import ROOT, TOKEN, Post, Receiver, a_receiver, run_load, server_process
from benchmarks.workload import temp_folder

ENDPOINT = "images/multi-image2image"
_BODY = {"model_name": "kling-v2", "prompt": "a lighthouse at dawn, " * 10, "n": 1}
_HEADERS = {"authorization": f"Bearer {TOKEN}"}
_POSTS: Mapping[str, Post] = {
    "gateway create": (f"/kling/v1/{ENDPOINT}", json.dumps(_BODY), _HEADERS),
    "POST /api/tasks": ("/api/tasks", json.dumps({"endpoint": ENDPOINT, "body": _BODY}), _HEADERS),
}
_TARGETS = {"gateway create": 3.0, "POST /api/tasks": 4.0}
RUNNING = (10, 1_000, 5_000)
"""The numbers of running tasks at the beginning of a run."""
_PART = 500
"""How many of them are made at once, because a run of the generator may not take long."""


def submits(size: Scale) -> Iterator[Measurement]:
    """Creates through the gateway and by ``POST /api/tasks``, beside a bare proxy with the same HTTP client.

    Each run begins with a stated number of running tasks, because the slots that they use are counted.
    """
    rates: dict[object, list[float]] = defaultdict(list)
    costs: dict[object, list[float]] = defaultdict(list)
    with (
        temp_folder() as path,
        server_process("kling", folder=path) as kling,
        server_process("proxy", str(kling.port), folder=path) as proxy,
        a_receiver(path, kling=kling.port) as ours,
    ):

        def run(what: object, port: int, pid: int, post: Post) -> None:
            meter = CpuMeter(pid)
            meter.start()
            rates[what].append(run_load(port, [post] * size.submits, path).rate)
            costs[what].append(meter.microseconds_each(size.submits))

        for _ in range(max(RUNNING) // _PART):
            run_load(ours.admin, [_POSTS["gateway create"]] * _PART, path)
        for _ in range(size.rounds):
            run("proxy", proxy.port, proxy.pid, (f"/v1/{ENDPOINT}", json.dumps(_BODY)))
            for running in RUNNING:
                for what, post in _POSTS.items():
                    _set_running(path / "receiver.db", running)
                    run((what, running), ours.admin, ours.pid, post)
    for what, target in _TARGETS.items():
        for running in RUNNING:
            cost, rate, detail = costs[what, running], rates[what, running], f"{running:,} running"
            yield compare_times(
                f"{what}, CPU / bare proxy", cost, costs["proxy"], unit="us", target=target, detail=detail
            )
            yield compare_rates(f"{what}, rate / bare proxy", rate, rates["proxy"], detail=detail)


def _set_running(store: Path, count: int) -> None:
    """Let the first *count* tasks run, and end all others. The service must be idle."""
    with closing(sqlite3.connect(store, timeout=10, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE tasks SET state = iif(id IN (SELECT id FROM tasks ORDER BY id LIMIT ?), 'submitted', 'expired')",
            (count,),
        )


def job_file(size: Scale) -> Iterator[Measurement]:
    """A file of 10,000 jobs, handed in by one command. Kling takes no job, so only the handing in is measured."""
    with temp_folder() as path, a_receiver(path) as ours:
        file = path / "jobs.jsonl"
        jobs = ({"prompt": f"{number} {_BODY['prompt']}", "n": 1} for number in range(size.job_lines))
        file.write_text("".join(json.dumps(job) + "\n" for job in jobs))
        before, meter = ours.resident_mib, CpuMeter(ours.pid)
        meter.start()
        seconds, used, peak = _run_command(path, ours, ["submit", ENDPOINT, "--body", f"@{file}"])
        cost, growth = meter.microseconds_each(size.job_lines), ours.resident_mib - before
    lines = f"of {size.job_lines:,} lines"
    yield single_value("jobs.jsonl, jobs per second", size.job_lines / seconds, "/s", detail=lines)
    yield single_value("jobs.jsonl, CPU of the service per job", cost, "us", detail=lines)
    yield single_value("jobs.jsonl, CPU of the command per job", used / size.job_lines * 1e6, "us", detail=lines)
    yield single_value("jobs.jsonl, peak memory of the command", peak, "MiB", detail=lines)
    yield single_value("jobs.jsonl, growth of the service", growth, "MiB", detail=lines)


def _run_command(folder: Path, running: Receiver, argv: Sequence[str]) -> tuple[float, float, float]:
    """Run a command. Return its seconds, its seconds of CPU time, and its peak memory in MiB."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "KLING_RECEIVER_CONFIG": str(running.config),
    }
    began = time.perf_counter()
    with (folder / "command.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "receiver", *argv], cwd=folder, env=env, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError((folder / "command.log").read_text()[-2000:])
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
