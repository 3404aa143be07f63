"""The measurements, each with its comparison, in one run on one machine."""

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from benchmarks.load import LoadResult, post_all, request
from benchmarks.processes import Post, Receiver, a_receiver, run_load, run_load_on_one_loop, server_process
from benchmarks.sink import Sink

CALLBACK = (
    '{{"task_id":"{id}","task_status":"{status}","task_status_msg":"","created_at":1785901861504,'
    '"updated_at":1785901861504,"task_info":{{}},"task_result":{{"images":[{{"index":0,'
    '"url":"https://cdn.example.com/bs2/upload-ylab-stunt/output_{id}.png"}}]}}}}'
)
STATUSES = ("submitted", "processing", "succeed")
WAIT_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Amount of work per measurement. The defaults take about two minutes on two idle cores."""

    rounds: int = 5
    callbacks: int = 3_000
    deliveries: int = 1_000
    slow_callbacks: int = 1_500
    probes: int = 300
    starts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One result: ours, the comparison if there is one, the goal, and the single values.

    The goal applies to the ratio of the two, or to ours alone.
    """

    name: str
    ours: float
    baseline: float | None = None
    unit: str
    goal: float
    more_is_better: bool
    detail: str

    @property
    def value(self) -> float:
        """The value that is judged."""
        return self.ours if self.baseline is None else self.ours / self.baseline

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.goal if self.more_is_better else self.value < self.goal


def acknowledged(size: Scale) -> Iterator[Measurement]:
    """Callbacks answered after they are durable, compared with a handler that stores nothing."""
    ours, empty = [], []
    with temp_folder() as path, server_process("empty", folder=path) as empty_port, a_receiver(path) as running:
        for _ in range(size.rounds):
            posts = callbacks(running, size.callbacks)
            empty.append(run_load(empty_port, posts, path).rate)
            ours.append(run_load(running.public, posts, path).rate)
    yield compare_rates(
        "acknowledged / empty handler", ours, empty, goal=0.7, detail="the generator is another process"
    )


def acknowledged_on_one_loop(size: Scale) -> Iterator[Measurement]:
    """The same with the generator on the server's own loop, so that its work counts on both sides."""
    ours, empty = [], []
    for _ in range(size.rounds):
        with temp_folder() as path:
            with a_receiver(path) as running:
                posts = callbacks(running, size.callbacks)
            empty.append(run_load_on_one_loop(running.public, posts, path).rate)
            ours.append(run_load_on_one_loop(running.public, posts, path, config=running.config).rate)
    yield compare_rates(
        "the same, generator on one loop", ours, empty, goal=0.7, detail="its work counts on both sides"
    )


def delivered(size: Scale) -> Iterator[Measurement]:
    """Events accepted, delivered with a signature, and recorded, compared with the simple forwarder."""
    ours, usual = [], []
    with (
        temp_folder() as path,
        server_process("sink", folder=path) as sink,
        a_forwarder(sink, path) as by_hand,
        a_receiver(path, sink) as running,
    ):
        for _ in range(size.rounds):
            posts = callbacks(running, size.deliveries, statuses=STATUSES[-1:])
            usual.append(delivery_rate(by_hand, posts, path, done=forwarder_finished(path)))
            ours.append(delivery_rate(running.public, posts, path, done=delivered_at_first_attempt(path)))
        lost = forwarder_lost(path)()
    yield compare_rates("delivered / simple forwarder", ours, usual, goal=6, detail=f"{lost} lost by the forwarder")


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
        a_receiver(one, sink, second) as with_both,
        a_receiver(other, sink, stuck) as with_one,
    ):
        for _ in range(size.rounds):
            for running, path, found in ((with_both, one, well), (with_one, other, ours)):
                posts = callbacks(running, size.slow_callbacks, statuses=STATUSES[-1:])
                before = delivered_to(path, sink)()
                ran = run_load(running.public, posts, path, connections=8)
                found.append(percentile([seconds * 1000 for seconds in ran.times], 99))
                wait_until_counted(delivered_to(path, sink), before + len(posts))
    detail = "of two destinations; against both being well"
    yield compare_times("p99 of callbacks while one hangs", ours, well, goal=1.2, detail=detail)


def latency(size: Scale) -> Iterator[Measurement]:
    """Time from a callback to its webhook on an idle service, and the cost of idling."""
    with temp_folder() as path:
        times, resident = uvloop.run(_probe(path, size.probes))
    detail = f"p90 {percentile(times, 90):.1f}, p99 {percentile(times, 99):.1f} of {len(times)}"
    yield single_value("callback to webhook, idle, p50", percentile(times, 50), "ms", goal=10, detail=detail)
    yield single_value("memory, idle", resident, "MiB", goal=80, detail="resident, before the first callback")


def start(size: Scale) -> Iterator[Measurement]:
    """Time from the start of the process to READY."""
    with temp_folder() as path:
        times = []
        for _ in range(size.starts):
            with a_receiver(path) as running:
                times.append(running.startup_seconds)
    detail = f"{min(times):.2f} to {max(times):.2f} of {len(times)}"
    yield single_value("process start to ready", statistics.median(times), "s", goal=0.7, detail=detail)


ALL: dict[str, Callable[[Scale], Iterator[Measurement]]] = {
    "acknowledged": acknowledged,
    "one-loop": acknowledged_on_one_loop,
    "delivered": delivered,
    "hanging": hanging,
    "latency": latency,
    "start": start,
}


@contextmanager
def temp_folder() -> Iterator[Path]:
    """Create a folder for one measurement, on the disk that all parties share."""
    with TemporaryDirectory(prefix="kling-receiver-bench-") as name:
        yield Path(name)


@contextmanager
def a_forwarder(sink: int, path: Path) -> Iterator[int]:
    """Run the simple forwarder."""
    with server_process("forwarder", str(sink), str(path), folder=path) as port:
        yield port


def callbacks(running: Receiver, count: int, *, statuses: Sequence[str] = STATUSES) -> list[Post]:
    """Return about *count* callbacks of new tasks: the first status of all tasks, then the next, and so on."""
    paths = uvloop.run(running.create_callback_urls(count // len(statuses)))
    return [
        (path, CALLBACK.format(id=f"8672837417{number:08}", status=status))
        for status in statuses
        for number, path in enumerate(paths)
    ]


def delivery_rate(port: int, posts: Sequence[Post], path: Path, *, done: Callable[[], int]) -> float:
    """Post callbacks and wait until *done* has counted each. Return events per second over the whole time."""
    before = done()
    ran: LoadResult = run_load(port, posts, path)
    wait_until_counted(lambda: done() - before, len(posts))
    return len(posts) / (time.perf_counter() - ran.started_at)


def wait_until_counted(count: Callable[[], int], wanted: int) -> None:
    """Wait until *count* reaches *wanted*; fail after a time limit."""
    end = time.perf_counter() + WAIT_TIMEOUT
    while (counted := count()) < wanted:
        if time.perf_counter() > end:
            raise RuntimeError(f"only {counted} of {wanted} were delivered")
        time.sleep(0.02)


def delivered_to(path: Path, sink: int) -> Callable[[], int]:
    """Count the receiver's deliveries to *sink*."""
    query = "SELECT COUNT(*) FROM deliveries WHERE route = ? AND status = 'delivered'"
    return row_counter(path / "receiver.db", query, f"to-{sink}")


def delivered_at_first_attempt(path: Path) -> Callable[[], int]:
    """Count the receiver's recorded attempts that succeeded."""
    return row_counter(
        path / "receiver.db", "SELECT COUNT(*) FROM deliveries WHERE status = 'delivered' AND attempts = 1"
    )


def forwarder_finished(path: Path) -> Callable[[], int]:
    """Count what the forwarder has finished, including losses by client timeouts."""
    return row_counter(path / "forwarder.db", "SELECT COUNT(*) FROM events WHERE status != 'pending'")


def forwarder_lost(path: Path) -> Callable[[], int]:
    """Count the forwarder's lost events."""
    return row_counter(path / "forwarder.db", "SELECT COUNT(*) FROM events WHERE status = 'failed'")


def row_counter(database: Path, query: str, *arguments: str) -> Callable[[], int]:
    """Count rows in another process's database, read-only."""

    def count() -> int:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
        try:
            return int(connection.execute(query, arguments).fetchone()[0])
        finally:
            connection.close()

    return count


async def _probe(path: Path, probes: int) -> tuple[list[float], float]:
    """Send one callback at a time and wait for its webhook. Return the times in milliseconds, and the idle memory."""
    arrived = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(lambda: Sink(arrived.set), "127.0.0.1", 0)
    times = []
    with a_receiver(path, server.sockets[0].getsockname()[1]) as running:
        resident = running.resident_mib
        for number, target in enumerate(await running.create_callback_urls(probes)):
            body = CALLBACK.format(id=f"8672837417{number:08}", status="succeed").encode()
            arrived.clear()
            began = time.perf_counter()
            await post_all(running.public, [request(target, body)], connections=1)
            async with asyncio.timeout(10):
                await arrived.wait()
            times.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.01)  # idle starts when the last delivery is recorded
    server.close()
    return times, resident


def compare_rates(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, goal: float, detail: str
) -> Measurement:
    """Compare rates that were measured alternately."""
    return _compared(name, ours, theirs, unit="/s", goal=goal, more_is_better=True, detail=detail)


def compare_times(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, goal: float, detail: str
) -> Measurement:
    """Compare times in milliseconds that were measured alternately."""
    return _compared(name, ours, theirs, unit="ms", goal=goal, more_is_better=False, detail=detail)


def _compared(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    unit: str,
    goal: float,
    more_is_better: bool,
    detail: str,
) -> Measurement:
    """Compare the medians: other work on the machine disturbs single rounds."""
    return Measurement(
        name=name,
        ours=statistics.median(ours),
        baseline=statistics.median(theirs),
        unit=unit,
        goal=goal,
        more_is_better=more_is_better,
        detail=detail,
    )


def single_value(name: str, ours: float, unit: str, *, goal: float, detail: str) -> Measurement:
    """Judge a cost by itself."""
    return Measurement(name=name, ours=ours, unit=unit, goal=goal, more_is_better=False, detail=detail)


def percentile(times: Sequence[float], percent: int) -> float:
    """Return the time that this percentage of the times does not exceed."""
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]
