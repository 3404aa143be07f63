"""A store in one SQLite file: one connection writes in groups, two others read and never wait for it."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self

from receiver.domain.clock import Clock, SystemClock
from receiver.domain.metrics import Metrics
from receiver.store.disk import RESERVE, DiskSpace, free_bytes, real_path
from receiver.store.sqlite import catalog, checkpoint, maintenance
from receiver.store.sqlite.alerts import SqliteAlertStore
from receiver.store.sqlite.archive import SqliteArchiveStore
from receiver.store.sqlite.batches import SqliteBatchStore
from receiver.store.sqlite.catalog import SqliteCatalog
from receiver.store.sqlite.costs import SqliteCostStore
from receiver.store.sqlite.database import Health, Reader, connect_reader, connect_writer, exclusive, open_thread
from receiver.store.sqlite.deletions import SqliteDeletionStore
from receiver.store.sqlite.deliveries import SqliteDeliveryQueue
from receiver.store.sqlite.durations import SqliteDurationStore
from receiver.store.sqlite.migrate import Report, known_migrations, upgrade
from receiver.store.sqlite.overview import SqliteOverview
from receiver.store.sqlite.replays import SqliteReplayStore
from receiver.store.sqlite.reports import SqliteReportStore
from receiver.store.sqlite.results import SqliteResultStore
from receiver.store.sqlite.retention import SqliteRetentionStore
from receiver.store.sqlite.sessions import SqliteSessionStore
from receiver.store.sqlite.tasks import SqliteTaskStore
from receiver.store.sqlite.totals import SqliteTotals
from receiver.store.sqlite.traces import SqliteTraceStore
from receiver.store.sqlite.upgrade_backup import back_up_before_upgrade
from receiver.store.sqlite.writer import WriteOp, Writer

_CLOCK = SystemClock()
_EMPTY_WRITE: WriteOp[None, None] = WriteOp(write=lambda _connection, group: group)


class SqliteStore:
    """One SQLite file, under an exclusive lock. Each attribute implements one protocol of the store.

    ``broken`` is set when the file can no longer be trusted. The supervisor then stops the service.
    """

    def __init__(
        self,
        path: Path,
        *,
        disk_space: DiskSpace,
        health: Health,
        writer: Writer,
        hot: Reader,
        lists: Reader,
    ) -> None:
        """*hot* reads on the path of callbacks and deliveries, *lists* reads lists, which may be slow."""
        self.disk_space = disk_space
        self.between_nodes = None  # the lock of the file keeps other processes out
        self._path = path
        self._health = health
        self._hot = hot
        self._lists = lists
        self._writer = writer
        self._resources = AsyncExitStack()
        self.tasks = SqliteTaskStore(writer, hot)
        self.deliveries = SqliteDeliveryQueue(writer, hot)
        self.catalog = SqliteCatalog(lists)
        self.archive = SqliteArchiveStore(writer, hot)
        self.results = SqliteResultStore(lists)
        self.retention = SqliteRetentionStore(writer, health)
        self.replays = SqliteReplayStore(writer, lists)
        self.costs = SqliteCostStore(writer, lists)
        self.batches = SqliteBatchStore(writer, hot, lists)
        self.alerts = SqliteAlertStore(writer, lists)
        self.reports = SqliteReportStore(writer, lists)
        self.durations = SqliteDurationStore(writer, lists)
        self.deletions = SqliteDeletionStore(writer, lists)
        self.overview = SqliteOverview(lists)
        self.traces = SqliteTraceStore(writer, hot)
        self.sessions = SqliteSessionStore(writer, hot)
        self.totals = SqliteTotals(writer, lists, path, disk_space)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        clock: Clock = _CLOCK,
        reserve: int = RESERVE,
        free: Callable[[Path], int] = free_bytes,
        metrics: Metrics | None = None,
        report: Report = lambda *_: None,
    ) -> Self:
        """Lock, migrate and open the store at *path*, until ``aclose``.

        With less than *reserve* bytes *free* the store accepts nothing new, so that work in progress can finish.
        *report* is called with the steps of a migration, in another thread.
        Raises StoreLocked if another process uses the store, StoreError if this program cannot use the file.
        """
        path = real_path(path)
        async with AsyncExitStack() as stack:
            stack.enter_context(exclusive(path, create=create))
            health, after_commit = Health(path), checkpoint.Checkpointer(path).after_commit
            # Opened first, so closed last: the last connection to close checkpoints the whole log.
            thread = await open_thread(stack, health, partial(connect_writer, path), "store-writer")
            back_up = partial(back_up_before_upgrade, path)
            await health.guard(thread.run(upgrade, known_migrations(), clock=clock, back_up=back_up, report=report))
            await health.guard(thread.run(partial(maintenance.verify_after_damage, path)))
            hot = Reader(await open_thread(stack, health, partial(connect_reader, path), "store-hot-reader"), health)
            lists = Reader(await open_thread(stack, health, partial(connect_reader, path), "store-list-reader"), health)
            space = DiskSpace(path.parent, reserve=reserve, free=free, refuses_writes=health.refuses_writes)
            writer = Writer(
                thread,
                health,
                has_space=space.has_space,
                after_commit=after_commit,
                metrics=metrics,
            )
            stack.push_async_callback(writer.aclose)
            store = cls(path, disk_space=space, health=health, writer=writer, hot=hot, lists=lists)
            store._resources = stack.pop_all()
            return store

    async def aclose(self) -> None:
        """Write what is pending, close the file and release the lock."""
        self._hot.close()
        self._lists.close()
        await self._resources.aclose()

    @property
    def broken(self) -> asyncio.Event:
        """The event that is set when the file can no longer be trusted."""
        return self._health.broken

    async def check_commit(self) -> None:
        """Commit an empty transaction. Raises StoreError if the writer cannot."""
        await self._writer.execute(_EMPTY_WRITE, None)

    async def newest_id(self) -> str:
        """Return the newest id of all tables without its prefix; empty for an empty store."""
        return await self._hot.read(catalog.newest_id)

    async def stats(self) -> Mapping[str, int]:
        """Return the rows of every kind and the bytes they use."""
        return await self._lists.read(maintenance.stats)

    async def backup(self, target: Path) -> None:
        """Copy the store to the new file *target* and check the copy; the store stays in use."""
        self._health.check()
        await asyncio.to_thread(maintenance.backup, self._path, target)
