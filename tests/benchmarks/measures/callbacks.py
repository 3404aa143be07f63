"""How many callbacks are acknowledged, and what each costs."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import floor
from benchmarks.cpu import CpuMeter
from benchmarks.measurement import Measurement, Scale, compare_rates, compare_times, percentile
from benchmarks.processes import a_receiver, a_storing_receiver, run_load, run_load_on_one_loop, server_process
from benchmarks.workload import STATUSES, callbacks, new_deliveries, posts_to, temp_folder, wait_until_counted


def acknowledged(size: Scale) -> Iterator[Measurement]:
    """Callbacks answered after they are durable, beside the floor and a handler that stores nothing."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        path = stack.enter_context(temp_folder())
        empty = stack.enter_context(server_process("empty", folder=path))
        least = stack.enter_context(server_process("floor", str(path), folder=path))
        ours = stack.enter_context(a_storing_receiver(path))
        for _ in range(size.rounds):
            posts = callbacks(ours, size.callbacks)
            floor_posts = posts_to(floor.create_callback_urls(path, size.callbacks // len(STATUSES)))
            contestants = (
                ("empty", empty.port, empty.pid, posts),
                ("floor", least.port, least.pid, floor_posts),
                ("ours", ours.public, ours.pid, posts),
            )
            for name, port, pid, work in contestants:
                meter = CpuMeter(pid)
                meter.start()
                rates[name].append(run_load(port, work, path).rate)
                costs[name].append(meter.microseconds_each(len(work)))
    yield compare_times("acknowledge, CPU / floor", costs["ours"], costs["floor"], unit="us", target=1.8)
    yield compare_times("acknowledge, CPU / empty handler", costs["ours"], costs["empty"], unit="us")
    yield compare_rates("acknowledge, rate / empty handler", rates["ours"], rates["empty"], target=0.4)
    yield compare_rates("acknowledge, rate / floor", rates["ours"], rates["floor"])


def acknowledged_on_one_loop(size: Scale) -> Iterator[Measurement]:
    """The rate with the generator on the server's own loop, so that its work counts on both sides."""
    ours, empty = [], []
    for _ in range(size.rounds):
        with temp_folder() as path:
            with a_storing_receiver(path) as running:
                posts = callbacks(running, size.callbacks)
            empty.append(run_load_on_one_loop(running.public, posts, path).rate)
            ours.append(run_load_on_one_loop(running.public, posts, path, config=running.config).rate)
    yield compare_rates(
        "acknowledge on one loop, rate / empty handler", ours, empty, detail="the generator's work counts on both sides"
    )


def hanging(size: Scale) -> Iterator[Measurement]:
    """Callback latency while one of two destinations hangs, compared with two working destinations."""
    ours: list[float] = []
    well: list[float] = []
    with (
        temp_folder() as one,
        temp_folder() as other,
        server_process("sink", folder=one) as sink,
        server_process("sink", folder=one) as second,
        server_process("sink", "hangs", folder=one) as stuck,
        a_receiver(one, sink.port, second.port) as with_both,
        a_receiver(other, sink.port, stuck.port) as with_one,
    ):
        for _ in range(size.rounds):
            for running, path, found in ((with_both, one, well), (with_one, other, ours)):
                posts = callbacks(running, size.slow_callbacks, statuses=STATUSES[-1:])
                count = new_deliveries(path, f"to-{sink.port}")
                ran = run_load(running.public, posts, path, connections=8)
                found.append(percentile([seconds * 1000 for seconds in ran.times], 99))
                wait_until_counted(count, len(posts))
    yield compare_times(
        "p99 of callbacks while one hangs", ours, well, target=1.2, detail="of two destinations; against both working"
    )
