"""Acknowledgements per second through the writer of each store, in one process: `python -m benchmarks.store_writes`.

Each one stores a push, the changed task, an event and a delivery, as a callback does. Both stores are on the same disk
with fsync on. ``COUNT`` is the number of acknowledgements of each run, ``AT_ONCE`` how many wait at the same time.
"""

import asyncio
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import uvloop
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.postgres import PostgresServer, shared_server
from msgspec.structs import replace

from receiver.domain.model import Push, Task
from receiver.service.stores import Store
from receiver.store.interfaces import ByToken, Change
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore
from receiver.store.sqlite.store import SqliteStore

COUNT = int(os.environ.get("COUNT", "6000"))
AT_ONCE = int(os.environ.get("AT_ONCE", "64"))
RUNS = 3
BODY = b'{"task_id":"1","task_status":"processing","task_result":{}}' + b" " * 400


def acknowledge(number: int) -> Callable[[Task, object], Change]:
    """Return a decision that stores what a callback stores."""

    def decide(task: Task, _pending: object) -> Change:
        push: Push = a_push(f"psh_{number:08}", task_id=task.id, body=BODY)
        event = an_event(f"evt_{number:08}", task_id=task.id, type="task.processing", push_id=push.id, body=BODY)
        changed = replace(task, updated_at=at(number), redundant_push_count=number)
        delivery = a_delivery(f"dlv_{number:08}", event_id=event.id)
        return Change(task=changed, push=push, events=(event,), deliveries=(delivery,))

    return decide


async def measure(store: Store, numbers: Iterator[int], tasks: int) -> tuple[float, float]:
    """Return the acknowledgements per second of one run, and the CPU milliseconds of this process for each."""
    chosen = [next(numbers) for _ in range(COUNT)]
    waiting = iter(chosen)

    async def work() -> None:
        for number in waiting:
            token = (number % tasks).to_bytes(32)
            assert await store.tasks.apply(ByToken(token_hash=token), acknowledge(number)) is not None

    began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    return COUNT / seconds, 1000 * used / COUNT


async def compare(stores: dict[str, Store]) -> None:
    """Print the figures of each store. The runs alternate, so that a busy machine slows both."""
    tasks, numbers = 2 * AT_ONCE, {name: count() for name in stores}
    for store in stores.values():
        for number in range(tasks):
            id_ = f"tsk_{number:04}"
            await store.tasks.add(
                a_task(id=id_, kling_id=id_, external_task_id=id_, token_hash=number.to_bytes(32)), b"{}"
            )
    for run in range(1, RUNS + 1):
        for name, store in stores.items():
            rate, milliseconds = await measure(store, numbers[name], tasks)
            sys.stdout.write(f"run {run}: {name:10} {rate:8.0f} acknowledgements/s, {milliseconds:.3f} ms CPU each\n")


async def run(folder: Path, server: PostgresServer) -> None:
    """Compare a new store of each kind."""
    sqlite = await SqliteStore.open(folder / "receiver.db")
    postgres = await PostgresStore.open(Address(url=server.url(await server.create_database())))
    try:
        await compare({"SQLite": sqlite, "PostgreSQL": postgres})
    finally:
        await sqlite.aclose()
        await postgres.aclose()


def main() -> None:
    """Compare both stores in a folder on the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.environ["POSTGRES_TESTS_FOLDER"] = name
        with shared_server(folder) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(folder, server))


if __name__ == "__main__":
    main()
