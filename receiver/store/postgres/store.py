"""A store in one PostgreSQL database: each node writes in groups, on two connections, and reads on a few others.

Deliveries have a writer of their own. In one with everything else, each of their three short transactions (claim,
attempt, next claim) would wait for a group of callbacks to reach the disk.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import msgspec

from receiver.domain.clock import Clock, SystemClock
from receiver.domain.errors import InvalidRequest
from receiver.domain.metrics import Metrics
from receiver.store.postgres import maintenance
from receiver.store.postgres.alerts import PostgresAlertStore
from receiver.store.postgres.archive import PostgresArchiveStore
from receiver.store.postgres.batches import PostgresBatchStore
from receiver.store.postgres.catalog import PostgresCatalog
from receiver.store.postgres.costs import PostgresCostStore
from receiver.store.postgres.database import Address, Connection, Connections, Health, Reader, is_pooled
from receiver.store.postgres.deletions import PostgresDeletionStore
from receiver.store.postgres.deliveries import PostgresDeliveryQueue
from receiver.store.postgres.durations import PostgresDurationStore
from receiver.store.postgres.migrate import Report, migrate
from receiver.store.postgres.node_calls import NodeParts, open_node_parts
from receiver.store.postgres.overview import PostgresOverview
from receiver.store.postgres.queries import fetch_value
from receiver.store.postgres.replays import PostgresReplayStore
from receiver.store.postgres.reports import PostgresReportStore
from receiver.store.postgres.results import PostgresResultStore
from receiver.store.postgres.retention import PostgresRetentionStore
from receiver.store.postgres.sessions import PostgresSessionStore
from receiver.store.postgres.tasks import PostgresTaskStore
from receiver.store.postgres.totals import PostgresTotals
from receiver.store.postgres.traces import PostgresTraceStore
from receiver.store.postgres.writer import WriteOp, Writer

_CLOCK = SystemClock()
_CACHED_STATEMENTS = 256
_MAX_HOT_READS = 3

# A prepared statement is planned once. On empty tables it would read them whole, and would still do so when they have
# a million rows, so the planner must use the index that each write has. Compiling a plan takes longer than the write.
_PLAN_SETTINGS = {"enable_seqscan": "off", "jit": "off"}
_MAX_LISTS = 3


class StatementTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds after which a statement ends with its connection, which may be stalled."""

    write: float = 8.0
    hot_read: float = 5.0
    list: float = 30.0


_TIMEOUTS = StatementTimeouts()


class PostgresStore:
    """One PostgreSQL database, which other nodes may use too. Each attribute implements one protocol of the store.

    ``broken`` is set when the database can no longer be trusted. The supervisor then stops the service.
    """

    def __init__(
        self,
        *,
        health: Health,
        writer: Writer,
        delivery_writer: Writer,
        hot: Reader,
        lists: Reader,
        between: NodeParts,
    ) -> None:
        """*hot* reads on the path of callbacks and deliveries, *lists* reads lists, which may be slow."""
        self._health = health
        self._writer = writer
        self._hot = hot
        self._lists = lists
        self._resources = AsyncExitStack()
        self.tasks = PostgresTaskStore(writer, hot)
        self.between_nodes = between
        self.deliveries = PostgresDeliveryQueue(delivery_writer, hot)
        self.catalog = PostgresCatalog(lists)
        self.archive = PostgresArchiveStore(writer, hot)
        self.results = PostgresResultStore(lists)
        self.retention = PostgresRetentionStore(writer)
        self.replays = PostgresReplayStore(writer, lists)
        self.costs = PostgresCostStore(writer, lists)
        self.batches = PostgresBatchStore(writer, hot, lists)
        self.alerts = PostgresAlertStore(writer, lists)
        self.reports = PostgresReportStore(writer, lists)
        self.durations = PostgresDurationStore(writer, lists)
        self.deletions = PostgresDeletionStore(writer, lists)
        self.overview = PostgresOverview(lists)
        self.traces = PostgresTraceStore(writer, hot)
        self.sessions = PostgresSessionStore(writer, hot)
        self.totals = PostgresTotals(writer, lists)

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        clock: Clock = _CLOCK,
        metrics: Metrics | None = None,
        report: Report = lambda *_: None,
        timeouts: StatementTimeouts = _TIMEOUTS,
    ) -> Self:
        """Migrate and open the store at *address*, until ``aclose``. *report* is called with the steps of a migration.

        Raises StoreUnavailable if the server cannot be reached, StoreError if this program cannot use the database.
        """
        await migrate(address, clock=clock, report=report)
        async with AsyncExitStack() as stack:
            health = Health()
            cached = 0 if await is_pooled(address) else _CACHED_STATEMENTS
            writer, delivery_writer = [
                await _open_writer(address, health, stack, timeout=timeouts.write, cached=cached, metrics=metrics)
                for _ in range(2)
            ]
            hot = await Connections.open(address, health, size=_MAX_HOT_READS, timeout=timeouts.hot_read, cached=cached)
            stack.push_async_callback(hot.aclose)
            lists = await Connections.open(address, health, size=_MAX_LISTS, timeout=timeouts.list, cached=cached)
            stack.push_async_callback(lists.aclose)
            between = await open_node_parts(address, health, stack, cached=cached)
            store = cls(
                health=health,
                writer=writer,
                delivery_writer=delivery_writer,
                hot=hot,
                lists=lists,
                between=between,
            )
            store._resources = stack.pop_all()
            return store

    async def aclose(self) -> None:
        """Write what is pending and close the connections."""
        self._hot.close()
        self._lists.close()
        await self._resources.aclose()

    @property
    def disk_space(self) -> None:
        """The store has no disk of its own: the server refuses writes when its disk is full."""
        return

    @property
    def broken(self) -> asyncio.Event:
        """The event that is set when the database can no longer be trusted."""
        return self._health.broken

    async def check_commit(self) -> None:
        """Commit a transaction. Raises StoreError if the writer cannot."""
        await self._writer.execute(_CHECK, None)

    async def newest_id(self) -> str:
        """Return the newest id of all tables without its prefix; empty for an empty store."""
        newest: str | None = await self._hot.read(fetch_value, "newest_id")
        return newest or ""

    async def stats(self) -> Mapping[str, int]:
        """Return the rows of every kind and the bytes they use."""
        return await self._lists.read(maintenance.stats)

    async def backup(self, target: Path) -> None:
        """Refuse: PostgreSQL has its own tools."""
        raise InvalidRequest(
            f"A store on PostgreSQL is not copied to {target}.", remedy="Use `pg_dump` or a base backup of the server."
        )


async def _open_writer(
    address: Address,
    health: Health,
    stack: AsyncExitStack,
    *,
    timeout: float,  # noqa: ASYNC109 -- of each later statement
    cached: int,
    metrics: Metrics | None,
) -> Writer:
    """Open a writer on a connection of its own; *stack* closes both."""
    settings = _PLAN_SETTINGS if cached else None  # a pooler may refuse them, and without a cache no plan is kept
    connections = await Connections.open(address, health, size=1, timeout=timeout, cached=cached, settings=settings)
    stack.push_async_callback(connections.aclose)
    writer = Writer(connections, health, is_pooled=not cached, metrics=metrics)
    stack.push_async_callback(writer.aclose)
    return writer


async def _check(connection: Connection, group: Sequence[None]) -> Sequence[None]:
    """Take the id of a transaction, so that the commit writes something."""
    await fetch_value(connection, "take_transaction_id")
    return group


_CHECK: WriteOp[None, None] = WriteOp(write=_check)
