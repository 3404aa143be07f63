"""The nodes that share a database, and their leases on duties."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta

from asyncpg import Record

from receiver.domain.clock import MICROSECOND, from_micros
from receiver.domain.duties import Duty
from receiver.store.interfaces.nodes import Lease, NodeIdentity, NodesView, StoredNode
from receiver.store.postgres.database import CONNECT_TIMEOUT, Address, Connection, Connections, Health, connect
from receiver.store.postgres.errors import translate_error
from receiver.store.postgres.queries import change, fetch, fetch_row

_FORGET_AFTER = timedelta(days=7)
_NO_TIME_LIMIT = {"idle_session_timeout": "0"}


class PostgresNodes:
    """The nodes and leases, on a connection of their own. No call is repeated: its caller knows what is too late."""

    def __init__(self, connections: Connections, health: Health, *, address: Address, is_pooled: bool) -> None:
        self._connections = connections
        self._health = health
        self._address = address
        self._is_pooled = is_pooled

    async def register(self, node: NodeIdentity, *, replacing: str | None = None) -> StoredNode | None:
        """Register a process under its node's name. Return the process that has the name, or None.

        *replacing* is the instance of a process that has died and may be replaced.
        """
        async with self._transaction() as connection:
            await change(connection, "add_missing_leases", {"duties": [duty.value for duty in Duty]})
            await change(connection, "forget_old_nodes", {"age": _FORGET_AFTER // MICROSECOND})
            arguments = {
                "name": node.name,
                "instance": node.instance,
                "version": node.version,
                "replacing": replacing or "",
            }
            if await change(connection, "register_node", arguments):
                return None
            found = await fetch_row(connection, "find_node", {"name": node.name})
            return None if found is None else _node(found)

    @asynccontextmanager
    async def session(self, node: NodeIdentity) -> AsyncIterator[asyncio.Event | None]:
        """Keep a session open that other nodes see. A pooler may keep one open after this process ended: then None."""
        if self._is_pooled:
            yield None
            return
        connection = await connect(self._address, timeout=CONNECT_TIMEOUT, settings=_NO_TIME_LIMIT)
        try:
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            try:
                await fetch(connection, "open_session", {"instance": node.instance})
            except Exception as exc:
                raise (translate_error(exc) or exc) from exc
            yield ended
        finally:
            connection.terminate()

    async def abandoned(self, duty: Duty) -> Lease | None:
        """Return the lease on a duty if the session of its holder has ended, or None."""
        async with self._connection() as connection:
            row = await fetch_row(connection, "find_abandoned_lease", {"duty": duty.value})
            return None if row is None else _lease(row)

    async def renew(
        self, node: NodeIdentity, duties: Collection[Duty], *, lifetime: timedelta, has_session: bool = False
    ) -> NodesView | None:
        """Report that a process lives, renew its leases on *duties*, and return all nodes and leases.

        A lease that has ended is renewed too, unless another node has taken it: a pause of the database moves nothing.
        Return None if another process has taken the node's name.
        """
        async with self._transaction() as connection:
            if not await change(connection, "renew_node", {"name": node.name, "instance": node.instance}):
                return None
            held = {
                "instance": node.instance,
                "duties": [*duties],
                "lifetime": lifetime // MICROSECOND,
                "session": node.instance if has_session else None,
            }
            if duties:
                await change(connection, "renew_leases", held)
            return await _view(connection)

    async def take(
        self, node: NodeIdentity, duty: Duty, *, epoch: int, lifetime: timedelta, has_session: bool = False
    ) -> bool:
        """Take a duty whose lease number *epoch* has ended. Return False if another node was faster."""
        arguments = {
            "duty": duty.value,
            "epoch": epoch,
            "name": node.name,
            "instance": node.instance,
            "lifetime": lifetime // MICROSECOND,
            "session": node.instance if has_session else None,
        }
        async with self._transaction() as connection:
            return await change(connection, "take_lease", arguments) == 1

    async def give_back(self, node: NodeIdentity, duties: Collection[Duty]) -> None:
        """End the leases of a process on *duties*, so that other nodes can take them at once."""
        async with self._transaction() as connection:
            await change(connection, "give_back_leases", {"instance": node.instance, "duties": [*duties]})

    async def remove(self, node: NodeIdentity) -> None:
        """Remove a process that stops, with its leases."""
        async with self._transaction() as connection:
            await change(connection, "give_back_leases", {"instance": node.instance, "duties": [*Duty]})
            await change(connection, "remove_node", {"name": node.name, "instance": node.instance})

    async def nodes(self) -> NodesView:
        """Return all nodes and leases."""
        async with self._transaction() as connection:
            return await _view(connection)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection within a transaction. Raises StoreUnavailable, StoreBroken and the like."""
        async with self._connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. Raises StoreUnavailable, StoreBroken and the like."""
        self._health.check()
        try:
            async with self._connections.connection() as connection:
                yield connection
        except Exception as exc:
            error = self._health.classify(exc)
            if error is exc:
                raise
            raise error from exc


async def _view(connection: Connection) -> NodesView:
    nodes = [_node(row) for row in await fetch(connection, "list_nodes")]
    known = {duty.value for duty in Duty}
    leases = [_lease(row) for row in await fetch(connection, "list_leases") if row["duty"] in known]
    return NodesView(nodes=nodes, leases=leases)


def _node(row: Record) -> StoredNode:
    return StoredNode(
        name=row["name"],
        instance=row["instance"],
        version=row["version"],
        started_at=from_micros(row["started_at"]),
        seen_at=from_micros(row["seen_at"]),
        silence=row["silence"] * MICROSECOND,
    )


def _lease(row: Record) -> Lease:
    return Lease(
        duty=Duty(row["duty"]),
        epoch=row["epoch"],
        node=row["node"],
        instance=row["instance"],
        remaining=row["remaining"] * MICROSECOND,
    )
