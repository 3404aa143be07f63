"""What is measured, each beside what it is compared with, in one run on one machine."""

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
from benchmarks.load import Load, post_all, request
from benchmarks.processes import Receiver, load, receiver, serving
from benchmarks.sink import Sink

CALLBACK = (
    '{{"task_id":"{id}","task_status":"{status}","task_status_msg":"","created_at":1785901861504,'
    '"updated_at":1785901861504,"task_info":{{}},"task_result":{{"images":[{{"index":0,'
    '"url":"https://cdn.example.com/bs2/upload-ylab-stunt/output_{id}.png"}}]}}}}'
)
STATUSES = ("submitted", "processing", "succeed")
PATIENCE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of each is done. The defaults take about two minutes on two cores."""

    rounds: int = 3
    callbacks: int = 20_000
    deliveries: int = 6_000
    probes: int = 300
    starts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One finding: a value, what it should be, and the numbers it came from."""

    name: str
    value: float
    unit: str
    aim: float
    more_is_better: bool
    detail: str

    @property
    def met(self) -> bool:
        """Whether the aim is reached."""
        return self.value >= self.aim if self.more_is_better else self.value < self.aim


def acknowledged(size: Size) -> Iterator[Measured]:
    """Callbacks answered once they are durable, against a handler that keeps nothing."""
    per_round = size.callbacks // size.rounds
    ours, empty = [], []
    with folder() as path, serving("empty", folder=path) as empty_port, receiver(path) as running:
        for _ in range(size.rounds):
            posts = callbacks(running, per_round)
            empty.append(load(empty_port, posts, path).rate)
            ours.append(load(running.public, posts, path).rate)
    yield compared("acknowledged callbacks / empty handler", ours, empty, aim=0.7)


def delivered(size: Size) -> Iterator[Measured]:
    """Events taken in, delivered signed, and written down, against a forwarder made by hand."""
    per_round = size.deliveries // size.rounds
    ours, usual = [], []
    with (
        folder() as path,
        serving("sink", folder=path) as sink,
        forwarder(sink, path) as by_hand,
        receiver(path, sink=sink) as running,
    ):
        for _ in range(size.rounds):
            posts = callbacks(running, per_round, statuses=STATUSES[-1:])
            usual.append(delivery_rate(by_hand, posts, path, done=forwarded(path)))
            ours.append(delivery_rate(running.public, posts, path, done=attempted(path)))
    yield compared("delivered events / forwarder by hand", ours, usual, aim=6)


def latency(size: Size) -> Iterator[Measured]:
    """How long after a callback its webhook arrives, when nothing else is going on; and what idling costs."""
    with folder() as path:
        times, resident = uvloop.run(_probe(path, size.probes))
    detail = f"p50 {at(times, 50):.1f}  p90 {at(times, 90):.1f}  p99 {at(times, 99):.1f}  of {len(times)}"
    yield less("callback to webhook, idle, p50", at(times, 50), "ms", aim=10, detail=detail)
    yield less("memory, idle", resident, "MiB", aim=80, detail="resident, before the first callback")


def start(size: Size) -> Iterator[Measured]:
    """How long the process takes from its start to READY."""
    with folder() as path:
        times = []
        for _ in range(size.starts):
            with receiver(path) as running:
                times.append(running.ready_after)
    detail = "  ".join(f"{seconds:.2f}" for seconds in times)
    yield less("process start to ready", statistics.median(times), "s", aim=0.7, detail=detail)


ALL: dict[str, Callable[[Size], Iterator[Measured]]] = {
    "acknowledged": acknowledged,
    "delivered": delivered,
    "latency": latency,
    "start": start,
}


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder for as long as a measurement takes, on the disk all its parties share."""
    with TemporaryDirectory(prefix="kling-receiver-bench-") as name:
        yield Path(name)


@contextmanager
def forwarder(sink: int, path: Path) -> Iterator[int]:
    """Run the forwarder made by hand."""
    with serving("forwarder", str(sink), str(path), folder=path) as port:
        yield port


def callbacks(running: Receiver, count: int, *, statuses: Sequence[str] = STATUSES) -> list[tuple[str, str]]:
    """Make about *count* callbacks of fresh tasks: all tasks' first status, then all tasks' next one, and so on."""
    paths = uvloop.run(running.mint(count // len(statuses)))
    return [
        (path, CALLBACK.format(id=f"8672837417{number:08}", status=status))
        for status in statuses
        for number, path in enumerate(paths)
    ]


def delivery_rate(port: int, posts: Sequence[tuple[str, str]], path: Path, *, done: Callable[[], int]) -> float:
    """Post callbacks and wait until *done* has counted each; give events per second over all that time."""
    before = done()
    ran: Load = load(port, posts, path)
    end = ran.ended + PATIENCE
    while (count := done() - before) < len(posts):
        if time.perf_counter() > end:
            raise RuntimeError(f"only {count} of {len(posts)} were delivered")
        time.sleep(0.02)
    return len(posts) / (time.perf_counter() - ran.began)


def attempted(path: Path) -> Callable[[], int]:
    """Count the receiver's recorded attempts that succeeded."""
    return counting(path / "receiver.db", "SELECT COUNT(*) FROM deliveries WHERE status = 'delivered' AND attempts = 1")


def forwarded(path: Path) -> Callable[[], int]:
    """Count what the forwarder wrote down as delivered."""
    return counting(path / "forwarder.db", "SELECT COUNT(*) FROM events WHERE status = 'delivered'")


def counting(database: Path, query: str) -> Callable[[], int]:
    """Count in somebody else's database, without ever writing there."""

    def count() -> int:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
        try:
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    return count


async def _probe(path: Path, probes: int) -> tuple[list[float], float]:
    """Send one callback at a time and wait for its webhook; give the times in milliseconds, and the idle memory."""
    arrived = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(lambda: Sink(arrived.set), "127.0.0.1", 0)
    times = []
    with receiver(path, sink=server.sockets[0].getsockname()[1]) as running:
        resident = running.resident
        for number, target in enumerate(await running.mint(probes)):
            body = CALLBACK.format(id=f"8672837417{number:08}", status="succeed").encode()
            arrived.clear()
            began = time.perf_counter()
            await post_all(running.public, [request(target, body)], connections=1)
            async with asyncio.timeout(10):
                await arrived.wait()
            times.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.01)  # idle is when the last one has been written down
    server.close()
    return times, resident


def compared(name: str, ours: Sequence[float], theirs: Sequence[float], *, aim: float) -> Measured:
    """Compare rates taken in turns; the medians, as other work on the machine hits single rounds."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    detail = f"{_rates(ours)} /s  against  {_rates(theirs)} /s"
    return Measured(name=name, value=ratio, unit="x", aim=aim, more_is_better=True, detail=detail)


def less(name: str, value: float, unit: str, *, aim: float, detail: str) -> Measured:
    """Judge a cost."""
    return Measured(name=name, value=value, unit=unit, aim=aim, more_is_better=False, detail=detail)


def at(times: Sequence[float], percent: int) -> float:
    """Give the time that so many percent stay below."""
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]


def _rates(rates: Sequence[float]) -> str:
    return " ".join(f"{rate:,.0f}" for rate in rates)
