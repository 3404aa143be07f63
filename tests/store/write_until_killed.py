"""A process that writes without pause and prints what was acknowledged, until it is killed.

Each line is the number of one ``apply`` that has returned.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from harness.factories import a_delivery, a_push, a_task, an_event
from msgspec.structs import replace

from receiver.domain.model import Push, Task
from receiver.store.interfaces import ById, Change, Decide
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore
from receiver.store.sqlite.store import SqliteStore

CONCURRENT_WRITERS = 32
TASKS = 8


async def write_continuously(place: str) -> None:
    """Write to the store in a file or at the URL of a PostgreSQL database."""
    if place.startswith("postgresql:"):
        store: SqliteStore | PostgresStore = await PostgresStore.open(Address(url=place))
    else:
        store = await SqliteStore.open(Path(place))
    for n in range(TASKS):
        await store.tasks.add(a_task(id=f"tsk_{n}"), b"")
    numbers = count()

    async def call() -> None:
        for n in numbers:
            await store.tasks.apply(ById(id=f"tsk_{n % TASKS}"), decision_for(n))
            os.write(1, b"%d\n" % n)

    await asyncio.gather(*(call() for _ in range(CONCURRENT_WRITERS)))


def decision_for(n: int) -> Decide:
    """Return a change with a push, an event and a delivery numbered *n*; count it on the task."""

    def decide(task: Task, _pending: Sequence[Push]) -> Change:
        return Change(
            task=replace(task, polling=replace(task.polling, count=task.polling.count + 1)),
            push=a_push(f"psh_{n}", task_id=task.id),
            events=[an_event(f"evt_{n}", type="task.processing", task_id=task.id, push_id=f"psh_{n}")],
            deliveries=[a_delivery(f"dlv_{n}", event_id=f"evt_{n}")],
        )

    return decide


if __name__ == "__main__":
    asyncio.run(write_continuously(sys.argv[1]))
