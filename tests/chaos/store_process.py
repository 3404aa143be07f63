"""A process that works on a store and prints one line for each acknowledged write.

accepted 17            push number 17 is stored, with its event and its delivery
delivered dlv_000017   the attempt and the verdict are stored
migrated / backed up   that step is complete
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random

from harness.factories import a_delivery, a_push, a_task, an_event, at
from msgspec.structs import replace

from receiver.domain.model import Attempt, DeliveryStatus, Push, PushOutcome, Task, Verdict
from receiver.store.interfaces import ById, Change, Decide
from receiver.store.sqlite import maintenance, store
from receiver.store.sqlite.database import connect_writer, exclusive
from receiver.store.sqlite.migrate import Migration, known_migrations, migrate, upgrade
from receiver.store.sqlite.store import SqliteStore

TASKS = 4
ROUTE = "publish"
CONCURRENT_WRITERS = 6

NEXT_MIGRATION = Migration(
    version=9999,
    name="made_up",
    sql="CREATE TABLE next_one (id TEXT);\nCREATE TABLE next_two (id TEXT);\n"
    "UPDATE tasks SET label = 'migrated';\nALTER TABLE pushes ADD COLUMN next TEXT;\n",
)
"""A step that a later version might bring: new tables, changed ones, changed rows."""


def body_of(number: int) -> bytes:
    """Return the body of a push; the store must keep exactly these bytes."""
    rng = Random(number)
    return rng.randbytes(rng.randrange(100, 3000))


def decision_for(number: int) -> Decide:
    """Return a push, an event and a delivery for a number, and count it on the task."""
    body = body_of(number)

    def judge(task: Task, _: Sequence[Push]) -> Change:
        outcome = PushOutcome.APPLIED if number % 2 else PushOutcome.PENDING  # only the latter is stored with its body
        digest = hashlib.sha256(body).digest()
        push = a_push(f"psh_{number:06}", task_id=task.id, body=body, digest=digest, outcome=outcome)
        event = an_event(
            f"evt_{number:06}", type="task.processing", task_id=task.id, push_id=push.id, body=body, created_at=at(0)
        )
        delivery = a_delivery(f"dlv_{number:06}", event_id=event.id, route=ROUTE)
        return Change(
            task=replace(task, polling=replace(task.polling, count=task.polling.count + 1)),
            push=push,
            events=[event],
            deliveries=[delivery],
        )

    return judge


def backup_path(path: Path) -> Path:
    """Return the path of the backup that the workload makes halfway."""
    return path.with_name("copy.db")


def report(what: str) -> None:
    os.write(1, f"{what}\n".encode())


async def add_tasks(store: SqliteStore) -> None:
    for number in range(TASKS):
        task = a_task(id=f"tsk_{number}", kling_id=f"k{number}", external_task_id=f"tsk_{number}")
        if await store.catalog.task(task.id) is None:
            await store.tasks.add(task, b"{}")


async def accept(store: SqliteStore, numbers: Sequence[int], *, report: Callable[[str], None] = report) -> None:
    """Store pushes, some of them concurrently."""
    left = iter(numbers)

    async def call() -> None:
        for number in left:
            assert await store.tasks.apply(ById(id=f"tsk_{number % TASKS}"), decision_for(number)) is not None
            report(f"accepted {number}")

    await asyncio.gather(*(call() for _ in range(CONCURRENT_WRITERS)))


async def deliver(store: SqliteStore, limit: int) -> int:
    """Claim due deliveries and finish them as delivered. Return their number."""
    claimed = await store.deliveries.claim(ROUTE, now=at(1), until=at(60), limit=limit, claim="clm_1")
    for one in claimed:
        attempt = Attempt(
            delivery_id=one.delivery.id, number=1, started_at=at(1), duration=timedelta(seconds=1), outcome="accepted"
        )
        done = Verdict(status=DeliveryStatus.DELIVERED, due_at=at(2), finished_at=at(2))
        assert await store.deliveries.record_attempt(attempt, done, claim="clm_1")
        report(f"delivered {one.delivery.id}")
    return len(claimed)


async def run_workload(path: Path, *, rounds: int, per_round: int) -> None:
    """Accept and deliver concurrently, with one restart in the middle."""
    numbers = count()
    for _ in range(2):
        store = await SqliteStore.open(path)
        await add_tasks(store)
        for _ in range(rounds):
            batch = [number for number, _ in zip(numbers, range(per_round), strict=False)]
            await asyncio.gather(accept(store, batch), deliver(store, per_round // 2))
        if not backup_path(path).exists():
            await store.backup(backup_path(path))
            report("backed up")
        await store.aclose()


async def accept_some(path: Path, first: int, number: int, *, report: Callable[[str], None] = report) -> None:
    store = await SqliteStore.open(path)
    await add_tasks(store)
    await accept(store, range(first, first + number), report=report)
    await store.aclose()


async def deliver_all(path: Path) -> None:
    store = await SqliteStore.open(path)
    while await deliver(store, 4):
        pass
    await store.aclose()


def migrate_next(path: Path) -> None:
    with exclusive(path, create=True):
        connection = connect_writer(path)
        upgrade(connection, [*known_migrations(), NEXT_MIGRATION])
        connection.close()
    report("migrated")


def weaken_sync() -> None:
    """Weaken the store's syncing, to check that the test detects it."""
    real = connect_writer

    def weak(path: Path) -> object:
        connection = real(path)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    store.connect_writer = weak  # type: ignore[attr-defined, assignment]  # same signature


def main(what: str, path: Path, *more: str) -> None:
    match what:
        case "work" | "work-weakly":
            if what == "work-weakly":
                weaken_sync()
            asyncio.run(run_workload(path, rounds=int(more[0]), per_round=int(more[1])))
        case "accept":
            asyncio.run(accept_some(path, int(more[0]), int(more[1])))
        case "deliver":
            asyncio.run(deliver_all(path))
        case "make":
            migrate(path)
            report("migrated")
        case "migrate":
            migrate_next(path)
        case "backup":
            maintenance.backup(path, backup_path(path))
            report("backed up")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
