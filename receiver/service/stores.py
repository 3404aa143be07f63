"""Opens the store that the configuration names. The rest of the service knows only its interfaces."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from receiver.delivery.replay import ReplayStore
from receiver.domain.errors import StoreError, StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.settings import Settings, StoreSettings
from receiver.store.disk import DiskSpace, make_folder
from receiver.store.interfaces import (
    AlertStore,
    ArchiveStore,
    Catalog,
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
from receiver.store.interfaces.node_calls import NodeLinks
from receiver.store.sqlite.migrate import Report
from receiver.store.sqlite.store import SqliteStore
from receiver.tasks.batches import BatchStore
from receiver.tasks.bill_service import BillStore
from receiver.web.resources.costs import CostStore

if TYPE_CHECKING:
    from receiver.store.postgres.database import Address


class CostLedger(BillStore, CostStore, Protocol):
    """The costs of tasks, for the API and for the comparison with Kling's ledgers."""


class Store(Protocol):
    """One database, with one attribute for each protocol."""

    @property
    def tasks(self) -> TaskStore:
        """Tasks and their transitions."""
        ...

    @property
    def deliveries(self) -> DeliveryQueue:
        """Pending deliveries and the states of routes."""
        ...

    @property
    def catalog(self) -> Catalog:
        """Lists and single items."""
        ...

    @property
    def archive(self) -> ArchiveStore:
        """Events whose results are archived."""
        ...

    @property
    def results(self) -> ResultStore:
        """Archived results."""
        ...

    @property
    def retention(self) -> RetentionStore:
        """Deletion of old data."""
        ...

    @property
    def replays(self) -> ReplayStore:
        """Replays."""
        ...

    @property
    def costs(self) -> CostLedger:
        """Costs of tasks."""
        ...

    @property
    def batches(self) -> BatchStore:
        """Batches of tasks."""
        ...

    @property
    def alerts(self) -> AlertStore:
        """Alerts from their first report to their end."""
        ...

    @property
    def reports(self) -> ReportStore:
        """Daily reports."""
        ...

    @property
    def durations(self) -> DurationStore:
        """How long past tasks took."""
        ...

    @property
    def deletions(self) -> DeletionStore:
        """Deletion of single tasks."""
        ...

    @property
    def overview(self) -> Overview:
        """Searches, and the latest of everything."""
        ...

    @property
    def traces(self) -> TraceStore:
        """Traces of tasks."""
        ...

    @property
    def sessions(self) -> SessionStore:
        """Sessions of the console and their links."""
        ...

    @property
    def totals(self) -> Totals:
        """The present state, and lasting totals."""
        ...

    @property
    def disk_space(self) -> DiskSpace | None:
        """The space on the store's own disk; None if a server has it."""
        ...

    @property
    def between_nodes(self) -> NodeLinks | None:
        """Leases, calls and notifications of several processes; None if the store is for one process."""
        ...

    @property
    def broken(self) -> asyncio.Event:
        """The event that is set when the store can no longer be trusted."""
        ...

    async def check_commit(self) -> None:
        """Commit a transaction. Raises StoreError if the store cannot."""
        ...

    async def newest_id(self) -> str:
        """Return the newest id of all tables without its prefix; empty for an empty store."""
        ...

    async def stats(self) -> Mapping[str, int]:
        """Return the rows of every kind and the bytes they use."""
        ...

    async def backup(self, target: Path) -> None:
        """Copy the store to a new file. Raises InvalidRequest if the database has its own tools for that."""
        ...

    async def aclose(self) -> None:
        """Write what is pending and close the store."""
        ...


async def open_store(settings: Settings, *, metrics: Metrics, report: Report) -> Store:
    """Migrate and open the store. *report* is called with the steps of a migration. Raises StoreError."""
    if not settings.store.url.is_postgres:
        return await SqliteStore.open(settings.store.path, metrics=metrics, report=report)
    from receiver.store.postgres.store import PostgresStore  # noqa: PLC0415 -- its driver is an extra

    make_folder(settings.data_dir, mode=0o700)
    return await PostgresStore.open(server_address(settings.store), metrics=metrics, report=report)


async def server_problem(settings: Settings) -> StoreUnavailable | None:
    """Return why the PostgreSQL server cannot be used now; None if it can, or if waiting does not help."""
    if not settings.store.url.is_postgres:
        return None
    from receiver.store.postgres.database import CONNECT_TIMEOUT, connect  # noqa: PLC0415 -- its driver is an extra

    try:
        connection = await connect(server_address(settings.store), timeout=CONNECT_TIMEOUT)
    except StoreUnavailable as exc:
        return exc
    except StoreError:
        return None
    connection.terminate()
    return None


def server_address(store: StoreSettings) -> "Address":
    """Return the address and the password of the PostgreSQL database."""
    from receiver.store.postgres.database import Address  # noqa: PLC0415 -- its driver is an extra

    return Address(url=store.url, password=None if store.password is None else store.password.reveal())
