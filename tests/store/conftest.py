"""The stores that the conformance suite is run against, and short ways to fill them."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from harness.factories import a_delivery, a_task, an_event

from receiver.domain.model import Delivery, Push, Task
from receiver.store.interfaces import (
    ArchiveStore,
    ById,
    Catalog,
    Change,
    Decide,
    DeliveryQueue,
    RetentionStore,
    TaskStore,
)
from receiver.store.sqlite.store import SqliteStore


class Store(TaskStore, DeliveryQueue, Catalog, ArchiveStore, RetentionStore, Protocol):
    """All that a store is."""


Opener = Callable[[], contextlib.AbstractAsyncContextManager[Store]]


@contextlib.asynccontextmanager
async def a_sqlite_store(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, **options)
    async with contextlib.aclosing(store):
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "receiver.db"


@pytest.fixture(params=["sqlite"])
def opener(request: pytest.FixtureRequest, path: Path) -> Opener:
    """Opens the same store each time it is called. A second database is a second parameter here."""
    openers: dict[str, Opener] = {"sqlite": lambda: a_sqlite_store(path)}
    return openers[request.param]


@pytest.fixture
async def store(opener: Opener) -> AsyncIterator[Store]:
    async with opener() as opened:
        yield opened


def decide_always(change: Change) -> Decide:
    """A judge that decides the same whatever it sees."""
    return lambda _task, _pending: change


def record_arguments(seen: list[tuple[Task, list[Push]]]) -> Decide:
    """A judge that changes nothing and takes down what it was shown."""

    def judge(task: Task, pending: Any) -> Change:
        seen.append((task, list(pending)))
        return Change()

    return judge


async def add_deliveries(store: Store, *deliveries: Delivery) -> None:
    """Keep deliveries, with a task and the events they need."""
    if await store.task("tsk_1") is None:
        await store.add(a_task(), b"{}")
    ids = dict.fromkeys(delivery.event_id for delivery in deliveries)
    events = [an_event(id_, type="task.processing") for id_ in ids if await store.event(id_) is None]
    await store.apply(ById(id="tsk_1"), decide_always(Change(events=events, deliveries=deliveries)))


async def add_route_deliveries(store: Store, count: int, *, route: str = "publish") -> None:
    """Keep so many due deliveries of one route."""
    name = route.encode().hex()
    await add_deliveries(
        store, *(a_delivery(f"dlv_{name}{n:05}", event_id=f"evt_{name}{n:05}", route=route) for n in range(count))
    )
