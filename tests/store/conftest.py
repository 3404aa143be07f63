"""The stores that the conformance suite tests, and short ways to fill them."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest
from harness.factories import a_delivery, a_task, an_event

from receiver.delivery.replay import ReplayStore
from receiver.domain.model import Delivery, Push, Task
from receiver.store.interfaces import (
    AlertStore,
    ArchiveStore,
    ById,
    Catalog,
    Change,
    Decide,
    DeletionStore,
    DeliveryQueue,
    DurationStore,
    Overview,
    ReportStore,
    ResultStore,
    RetentionStore,
    SessionStore,
    TaskStore,
    Totals,
    TraceStore,
)
from receiver.store.postgres.costs import PostgresCostStore
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore
from receiver.store.sqlite.costs import SqliteCostStore
from receiver.store.sqlite.database import connect_writer
from receiver.store.sqlite.migrate import migrate
from receiver.store.sqlite.store import SqliteStore
from receiver.tasks.batches import BatchStore

Costs: TypeAlias = SqliteCostStore | PostgresCostStore


class Store(Protocol):
    """A store: one part for each protocol."""

    @property
    def tasks(self) -> TaskStore: ...

    @property
    def deliveries(self) -> DeliveryQueue: ...

    @property
    def catalog(self) -> Catalog: ...

    @property
    def archive(self) -> ArchiveStore: ...

    @property
    def results(self) -> ResultStore: ...

    @property
    def retention(self) -> RetentionStore: ...

    @property
    def overview(self) -> Overview: ...

    @property
    def replays(self) -> ReplayStore: ...

    @property
    def batches(self) -> BatchStore: ...

    @property
    def costs(self) -> Costs: ...

    @property
    def alerts(self) -> AlertStore: ...

    @property
    def reports(self) -> ReportStore: ...

    @property
    def durations(self) -> DurationStore: ...

    @property
    def deletions(self) -> DeletionStore: ...

    @property
    def traces(self) -> TraceStore: ...

    @property
    def sessions(self) -> SessionStore: ...

    @property
    def totals(self) -> Totals: ...

    async def stats(self) -> Mapping[str, int]: ...

    async def newest_id(self) -> str: ...


Opener = Callable[[], contextlib.AbstractAsyncContextManager[Store]]


@contextlib.asynccontextmanager
async def a_sqlite_store(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, **options)
    async with contextlib.aclosing(store):
        yield store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "receiver.db"


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """A writing connection to a migrated store that is not open elsewhere."""
    migrate(path)
    with contextlib.closing(connect_writer(path)) as connection:
        yield connection


@contextlib.asynccontextmanager
async def a_postgres_store(url: str, **options: Any) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(Address(url=url), **options)
    async with contextlib.aclosing(store):
        yield store


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a store on every database, or on those that its module names in ``STORES``."""
    if "opener" in metafunc.fixturenames:
        metafunc.parametrize("opener", getattr(metafunc.module, "STORES", ["sqlite", "postgres"]), indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, path: Path) -> str:
    """Where the store of ``opener`` is: the path of a file, or the URL of a database."""
    kind = request.node.callspec.params["opener"]
    return str(request.getfixturevalue("postgres_url") if kind == "postgres" else path)


@pytest.fixture
def opener(request: pytest.FixtureRequest) -> Opener:
    """Opens the same store each time it is called."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return lambda: a_postgres_store(url)
    path = request.getfixturevalue("path")
    return lambda: a_sqlite_store(path)


@pytest.fixture
async def store(opener: Opener) -> AsyncIterator[Store]:
    async with opener() as opened:
        yield opened


def decide_always(change: Change) -> Decide:
    """A decide that always returns *change*."""
    return lambda _task, _pending: change


def record_arguments(seen: list[tuple[Task, list[Push]]]) -> Decide:
    """A decide that changes nothing and records its arguments."""

    def decide(task: Task, pending: Any) -> Change:
        seen.append((task, list(pending)))
        return Change()

    return decide


async def add_deliveries(store: Store, *deliveries: Delivery) -> None:
    """Store deliveries, with the task and the events they need."""
    if await store.catalog.task("tsk_1") is None:
        await store.tasks.add(a_task(), b"{}")
    ids = dict.fromkeys(delivery.event_id for delivery in deliveries)
    events = [an_event(id_, type="task.processing") for id_ in ids if await store.catalog.event(id_) is None]
    await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(events=events, deliveries=deliveries)))


async def add_route_deliveries(store: Store, count: int, *, route: str = "publish") -> None:
    """Store *count* due deliveries of one route."""
    name = route.encode().hex()
    await add_deliveries(
        store, *(a_delivery(f"dlv_{name}{n:05}", event_id=f"evt_{name}{n:05}", route=route) for n in range(count))
    )
