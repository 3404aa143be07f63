"""What changes when much is stored: the same figures with many events and pending deliveries, beside few."""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import uvloop
from benchmarks.cpu import CpuMeter
from benchmarks.grown_store import age, fill
from benchmarks.load import post_all, request
from benchmarks.measurement import Measurement, Scale, compare_rates, compare_times, percentile, single_value
from benchmarks.processes import TOKEN, Receiver, a_receiver, run_load, server_process
from benchmarks.workload import (
    STATUSES,
    callbacks,
    new_deliveries,
    temp_folder,
    wait_until_counted,
)

from receiver.store.sqlite import maintenance

_FEW_EVENTS, _FEW_PENDING = 1_000, 100
_LISTS = ("/api/tasks", "/api/events", "/api/deliveries", "/api/tasks/k7")
_COUNTS = "/api/tasks/counts"  # reads an index of all tasks
_PAGES = (
    "/console/login",  # the first page of a visitor without a session
    "/console",
    "/console/tasks",
    "/console/tasks?q=k999",
    "/console/results",
    "/console/submit",
    "/console/events",
    "/console/deliveries",
    "/console/deliveries?status=dead",
    "/console/attempts",
    "/console/replays",
    "/console/replays/new?status=dead",
    "/console/routes",
    "/console/batches",
    "/console/costs",
    "/console/costs?by=tag:client",
    "/console/alerts",
    "/console/configuration",
    "/console/manual",
    "/metrics",
)
_REPEATS = 20
_IDLE_CONNECTIONS = 150
_SWEEP_FACTOR = 3  # of callbacks, and of rounds, for a steadier percentile: the sweep of a grown store takes minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    """A filled store in its folder, and the sink of its route."""

    path: Path
    sink: int


def grown(size: Scale) -> Iterator[Measurement]:
    """Acknowledge, deliver, list, start, memory, log and sweep with ``--events`` and ``--pending`` stored."""
    with ExitStack() as stack:
        sink = stack.enter_context(server_process("sink", folder=stack.enter_context(temp_folder()))).port
        few = _filled(_Store(path=stack.enter_context(temp_folder()), sink=sink), _FEW_EVENTS, _FEW_PENDING)
        many = _filled(_Store(path=stack.enter_context(temp_folder()), sink=sink), size.events, size.pending)
        yield _bytes(many, size)
        yield from _work(few, many, size)
        yield from _start(few, many, size)
        yield _stats(few, many)
        yield _sweep(few, many, size)


def _filled(store: _Store, events: int, pending: int) -> _Store:
    with a_receiver(store.path, store.sink) as running:
        posts = callbacks(running, 1, statuses=STATUSES[-1:])
        with closing(new_deliveries(store.path)) as delivered:
            run_load(running.public, posts, store.path)
            wait_until_counted(delivered, len(posts))
    fill(store.path / "receiver.db", events=events, pending=pending)
    return store


def _bytes(many: _Store, size: Scale) -> Measurement:
    stored = (many.path / "receiver.db").stat().st_size / size.events
    return single_value("grown: bytes on disk per event", stored, "B", detail=f"of {size.events} events")


def _work(few: _Store, many: _Store, size: Scale) -> Iterator[Measurement]:
    """Acknowledged and delivered events, lists, memory and the log, while both services run side by side."""
    figures: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    logs = [0.0, 0.0]
    with a_receiver(few.path, few.sink) as one, a_receiver(many.path, many.sink) as other:
        memory = other.resident_mib - one.resident_mib
        for _ in range(size.rounds):
            for place, (store, running) in enumerate(((few, one), (many, other))):
                for name, found in _accept_and_deliver(store, running, size).items():
                    figures[name][place].append(found)
                logs[place] = max(logs[place], (store.path / "receiver.db-wal").stat().st_size / 1024**2)
        idle = _memory_per_connection(other)
        pages = {path: sorted(uvloop.run(_get(other, path)) for _ in range(_REPEATS)) for path in _PAGES}
    yield compare_rates("grown: acknowledge and deliver, rate", *reversed(figures["rate"]), target=0.95)
    yield compare_times("grown: acknowledge and deliver, CPU", *reversed(figures["cpu"]), unit="us")
    yield compare_times("grown: answer time, p99", *reversed(figures["p99"]))
    for path in _LISTS:
        yield compare_times(f"grown: GET {path}", *reversed(figures[path]), target=1.25)
    yield compare_times(f"grown: GET {_COUNTS}", *reversed(figures[_COUNTS]))
    for path, times in pages.items():
        yield single_value(
            f"grown: GET {path}", statistics.median(times), "ms", target=150, detail=f"{times[-1]:.0f} worst"
        )
    yield single_value("grown: memory per pending delivery", memory * 1024**2 / size.pending, "B")
    yield single_value("grown: memory per idle connection", idle, "KiB")
    yield single_value("grown: write-ahead log", logs[1], "MiB", detail=f"{logs[0]:.1f} with few")


def _accept_and_deliver(store: _Store, running: Receiver, size: Scale) -> Mapping[str, float]:
    posts = callbacks(running, size.deliveries, statuses=STATUSES[-1:])
    delivered, meter = new_deliveries(store.path), CpuMeter(running.pid)
    meter.start()
    ran = run_load(running.public, posts, store.path)
    wait_until_counted(delivered, len(posts))
    return {
        "rate": len(posts) / (time.perf_counter() - ran.started_at),
        "cpu": meter.microseconds_each(len(posts)),
        "p99": percentile(ran.times, 99) * 1000,
        **{
            path: statistics.median(uvloop.run(_get(running, path)) for _ in range(_REPEATS))
            for path in (*_LISTS, _COUNTS)
        },
    }


async def _get(running: Receiver, path: str) -> float:
    sent = request(path, b"", {"authorization": f"Bearer {TOKEN}"}).replace(b"POST ", b"GET ", 1)
    ran = await post_all(running.admin, [sent], connections=1)
    if ran.statuses != {200: 1}:
        raise RuntimeError(f"GET {path} answered {dict(ran.statuses)}")
    return ran.times[0] * 1000


def _memory_per_connection(running: Receiver) -> float:
    async def open_and_look() -> float:
        before = running.resident_mib
        opened = [await asyncio.open_connection("127.0.0.1", running.public) for _ in range(_IDLE_CONNECTIONS)]
        await asyncio.sleep(0.2)
        after = running.resident_mib
        for _, writer in opened:
            writer.close()
        return (after - before) * 1024 / _IDLE_CONNECTIONS

    return uvloop.run(open_and_look())


def _start(few: _Store, many: _Store, size: Scale) -> Iterator[Measurement]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(size.rounds):
        for store, found in zip((few, many), times, strict=True):
            with a_receiver(store.path, store.sink) as running:
                found.append(running.startup_seconds * 1000)
    yield compare_times("grown: process start to ready", times[1], times[0], target=1.25)


def _stats(few: _Store, many: _Store) -> Measurement:
    times = []
    for store in (few, many):
        began = time.perf_counter()
        maintenance.stats_at(store.path / "receiver.db")
        times.append((time.perf_counter() - began) * 1000)
    return single_value("grown: db stats", times[1], "ms", detail=f"{times[0]:.1f} with few")


def _sweep(few: _Store, many: _Store, size: Scale) -> Measurement:
    """Answer times while the sweep, which runs at each start, deletes all copied events without pending deliveries."""
    age(many.path / "receiver.db")
    times: tuple[list[float], list[float]] = ([], [])
    with a_receiver(few.path, few.sink) as one, a_receiver(many.path, many.sink) as other:
        for _ in range(size.rounds * _SWEEP_FACTOR):
            for store, running, found in ((few, one, times[0]), (many, other, times[1])):
                posts = callbacks(running, size.slow_callbacks * _SWEEP_FACTOR, statuses=STATUSES[-1:])
                ran = run_load(running.public, posts, store.path, connections=8)
                found.append(percentile(ran.times, 99) * 1000)
    return compare_times("grown: p99 during a sweep", times[1], times[0], target=1.2)
