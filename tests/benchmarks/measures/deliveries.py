"""How many events are delivered, how soon, and what each costs."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from benchmarks import floor
from benchmarks.cpu import CpuMeter
from benchmarks.load import LoadResult, post_all, request
from benchmarks.measurement import (
    Measurement,
    Scale,
    compare_rates,
    compare_times,
    median_value,
    percentile,
    single_value,
)
from benchmarks.peers import PEERS
from benchmarks.processes import Post, Server, a_receiver, run_load, run_plain_loop, server_process
from benchmarks.sink import Sink
from benchmarks.workload import (
    CALLBACK,
    STATUSES,
    callbacks,
    forwarder_finished,
    forwarder_lost,
    new_deliveries,
    posts_to,
    temp_folder,
    wait_until_counted,
)

_LAST = STATUSES[-1:]


def delivered(size: Scale) -> Iterator[Measurement]:
    """Events accepted, delivered with a signature and recorded, beside the floor plus a plain client, and others."""
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        path = stack.enter_context(temp_folder())
        sink = stack.enter_context(server_process("sink", folder=path))
        by_hand = stack.enter_context(a_forwarder(sink.port, path))
        least = stack.enter_context(server_process("floor", str(path), folder=path))
        running = stack.enter_context(a_receiver(path, sink.port))
        peers = {name: stack.enter_context(run(sink.port, path)) for name, run in PEERS.items() if size.peers}
        for _ in range(size.rounds):
            posts = callbacks(running, size.deliveries, statuses=_LAST)
            floor_posts = posts_to(floor.create_callback_urls(path, size.deliveries), statuses=_LAST)
            ours = Server(port=running.public, pid=running.pid)
            contestants: list[tuple[str, Server, Sequence[Post], Callable[[], int]]] = [
                ("forwarder", by_hand, posts, forwarder_finished(path)),
                ("ours", ours, posts, new_deliveries(path)),
                *((name, peer.server, peer.posts(posts), sink_counter(sink.port)) for name, peer in peers.items()),
            ]
            for name, server, work, done in contestants:
                meter = CpuMeter(server.pid)
                meter.start()
                rates[name].append(delivery_rate(server.port, work, path, done=done))
                costs[name].append(meter.microseconds_each(len(posts)))
            meter = CpuMeter(least.pid)
            meter.start()
            run_load(least.port, floor_posts, path)
            plain = {client: run_plain_loop(client, sink.port, len(posts)) for client in ("ours", "aiohttp")}
            costs["floor"].append(meter.microseconds_each(len(posts)) + plain["ours"]["cpu"])
            costs["our client"].append(plain["ours"]["cpu"])
            costs["aiohttp"].append(plain["aiohttp"]["cpu"])
        lost = forwarder_lost(path)()
    yield compare_times("deliver, CPU / floor and a plain client", costs["ours"], costs["floor"], unit="us", target=1.8)
    yield compare_times("deliver, CPU / simple forwarder", costs["ours"], costs["forwarder"], unit="us")
    yield compare_rates(
        "deliver, rate / simple forwarder",
        rates["ours"],
        rates["forwarder"],
        target=15,
        detail=f"{lost} lost by the forwarder",
    )
    for name in peers:
        yield compare_times(f"deliver, CPU / {name}", costs["ours"], costs[name], unit="us")
        target = 2 if name == "Node-RED" else None
        yield compare_rates(f"deliver, rate / {name}", rates["ours"], rates[name], target=target)
    yield compare_times("plain client, CPU / aiohttp's", costs["our client"], costs["aiohttp"], unit="us")


def latency(size: Scale) -> Iterator[Measurement]:
    """Time from a callback to its webhook on an idle service, and the cost of idling."""
    with temp_folder() as path:
        times, resident = uvloop.run(_probe(path, size.probes))
    detail = f"p90 {percentile(times, 90):.1f} of {len(times)}"
    yield single_value("callback to webhook, idle, p50", percentile(times, 50), "ms", target=2.5, detail=detail)
    yield single_value("callback to webhook, idle, p99", percentile(times, 99), "ms", target=8)
    yield single_value("memory, idle", resident, "MiB", target=55, detail="resident, before the first callback")


def scripts(size: Scale) -> Iterator[Measurement]:
    """Runs of /bin/true with their record, beside a plain loop that starts it and waits."""
    costs, plain, rates = [], [], []
    with temp_folder() as path, a_receiver(path, script="/bin/true") as running:
        meter = CpuMeter(running.pid)
        for _ in range(size.rounds):
            posts = callbacks(running, size.scripts, statuses=_LAST)
            meter.start()
            rates.append(delivery_rate(running.public, posts, path, done=new_deliveries(path)))
            costs.append(meter.microseconds_each(len(posts)))
            plain.append(run_plain_loop("spawn", 0, size.scripts)["cpu"])
    yield median_value("script run of /bin/true, CPU", costs, "us", target=1000)
    yield compare_times("script run of /bin/true, CPU / posix_spawn", costs, plain, unit="us")
    yield median_value("script runs per second", rates, "/s")


@contextmanager
def a_forwarder(sink: int, path: Path) -> Iterator[Server]:
    """Run the simple forwarder."""
    with server_process("forwarder", str(sink), str(path), folder=path) as server:
        yield server


def sink_counter(port: int) -> Callable[[], int]:
    """Count the webhooks that a counting sink has received."""

    def count() -> int:
        answer = uvloop.run(post_all(port, [request("/count", b"")], connections=1))
        return int(answer.bodies[0])

    return count


def delivery_rate(port: int, posts: Sequence[Post], path: Path, *, done: Callable[[], int]) -> float:
    """Post callbacks and wait until *done* has counted each. Return events per second over the whole time."""
    before = done()
    ran: LoadResult = run_load(port, posts, path)
    wait_until_counted(lambda: done() - before, len(posts))
    return len(posts) / (time.perf_counter() - ran.started_at)


async def _probe(path: Path, probes: int) -> tuple[list[float], float]:
    """Send one callback at a time and wait for its webhook. Return the times in milliseconds, and the idle memory.

    A time ends when the destination has read the webhook. The answer to the callback comes later.
    """
    loop, times = asyncio.get_running_loop(), []
    arrival: asyncio.Future[float] = loop.create_future()
    server = await loop.create_server(lambda: Sink(lambda: arrival.set_result(time.perf_counter())), "127.0.0.1", 0)
    with a_receiver(path, server.sockets[0].getsockname()[1]) as running:
        resident = running.resident_mib
        for number, target in enumerate(await running.create_callback_urls(probes)):
            body = CALLBACK.format(id=f"8672837417{number:08}", status="succeed").encode()
            arrival = loop.create_future()
            began = time.perf_counter()
            await post_all(running.public, [request(target, body)], connections=1)
            times.append((await asyncio.wait_for(arrival, 10) - began) * 1000)
            await asyncio.sleep(0.01)  # idle starts when the last delivery is recorded
    server.close()
    return times, resident
