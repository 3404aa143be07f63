"""Calls and notifications between nodes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from asyncpg import Record

from receiver.domain.clock import MICROSECOND
from receiver.domain.duties import Duty
from receiver.domain.errors import StoreUnavailable
from receiver.store.interfaces.node_calls import CallState, NodeCall
from receiver.store.postgres.database import Address, Connection, Connections, Health, connect
from receiver.store.postgres.errors import translate_error
from receiver.store.postgres.nodes import PostgresNodes
from receiver.store.postgres.queries import change, fetch, fetch_row

T = TypeVar("T")

CHANNEL = "kling_receiver"
_LEASE_SECONDS = 2.0
_CALL_SECONDS = 5.0
_LISTEN_SECONDS = 5.0


class PostgresCalls:
    """The calls between nodes. No statement is repeated: its caller decides that."""

    def __init__(self, connections: Connections, health: Health) -> None:
        self._connections = connections
        self._health = health

    async def add(self, duty: Duty, call: NodeCall) -> None:
        """Store a call."""
        arguments = {"id": call.id, "duty": duty.value, "kind": call.kind, "arguments": call.arguments}
        await self.run(change, "add_call", arguments)

    async def take(self, duty: Duty, instance: str, *, max_silence: timedelta, limit: int) -> Sequence[NodeCall]:
        """Take calls that no process serves yet and whose callers waited within *max_silence*."""
        silence = max_silence // MICROSECOND
        arguments = {"duty": duty.value, "instance": instance, "max_silence": silence, "limit": limit}
        rows = await self.run(fetch, "take_calls", arguments)
        return [NodeCall(id=row["id"], kind=row["kind"], arguments=row["arguments"]) for row in rows]

    async def answer(self, call_id: str, instance: str, answer: bytes) -> None:
        """Store the answer of a call that *instance* serves."""
        await self.run(change, "answer_call", {"id": call_id, "instance": instance, "answer": answer})

    async def waiting(self, call_id: str) -> CallState | None:
        """Record that the caller waits, and return the state of its call; None if the call is lost."""
        return _state(await self.run(fetch_row, "await_call", {"id": call_id}))

    async def wanted(self, call_ids: Collection[str], *, max_silence: timedelta) -> Collection[str]:
        """Return those of some calls whose callers waited within *max_silence*."""
        arguments = {"ids": [*call_ids], "max_silence": max_silence // MICROSECOND}
        return {row["id"] for row in await self.run(fetch, "list_wanted_calls", arguments)}

    async def remove(self, call_id: str) -> CallState | None:
        """Remove a call, and return its last state; None if it is lost."""
        return _state(await self.run(fetch_row, "remove_call", {"id": call_id}))

    async def remove_old(self, age: timedelta) -> None:
        """Remove the calls whose callers have not waited for so long, because they died."""
        await self.run(change, "remove_old_calls", {"age": age // MICROSECOND})

    async def run(
        self, run: Callable[[Connection, str, dict[str, Any]], Awaitable[T]], name: str, arguments: dict[str, Any]
    ) -> T:
        """Run a named statement once. Raises StoreUnavailable."""
        self._health.check()
        try:
            async with self._connections.connection() as connection:
                return await run(connection, name, arguments)
        except Exception as exc:
            error = self._health.classify(exc)
            if error is exc:
                raise
            raise error from exc


def _state(row: Record | None) -> CallState | None:
    return None if row is None else CallState(taken_by=row["taken_by"], answer=row["answer"])


class PostgresSignals:
    """NOTIFY on a pooled connection, LISTEN on one of its own."""

    def __init__(self, address: Address, calls: PostgresCalls) -> None:
        self._address = address
        self._calls = calls

    async def notify(self, payload: str) -> None:
        """Wake the nodes that listen. Raises StoreUnavailable."""
        await self._calls.run(fetch_row, "notify_nodes", {"channel": CHANNEL, "payload": payload})

    @asynccontextmanager
    async def listening(self, receive: Callable[[str], None]) -> AsyncIterator[Callable[[], None]]:
        """Call *receive* with each payload. The yielded function raises StoreUnavailable if the connection was lost.

        Raises StoreError if the database does not permit it.
        """
        connection = await connect(self._address, timeout=_LISTEN_SECONDS)

        def received(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            receive(str(payload))

        def check() -> None:
            if connection.is_closed():
                raise StoreUnavailable("The connection that waits for notifications was lost.")

        try:
            try:
                await connection.add_listener(CHANNEL, received)
            except Exception as exc:
                raise (translate_error(exc) or exc) from exc
            yield check
        finally:
            connection.terminate()


class NodeParts(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes need of each other: leases, calls and notifications, on connections of their own."""

    nodes: PostgresNodes
    calls: PostgresCalls
    signals: PostgresSignals


async def open_node_parts(address: Address, health: Health, stack: AsyncExitStack, *, cached: int) -> NodeParts:
    """Open the connections between nodes; *stack* closes them. Leases do not wait for anything else.

    Each connection keeps *cached* statements prepared: none if a pooler is in between.
    """
    leasing = await Connections.open(address, health, size=1, timeout=_LEASE_SECONDS, cached=cached)
    stack.push_async_callback(leasing.aclose)
    calling = await Connections.open(address, health, size=2, timeout=_CALL_SECONDS, cached=cached)
    stack.push_async_callback(calling.aclose)
    calls = PostgresCalls(calling, health)
    nodes = PostgresNodes(leasing, health, address=address, is_pooled=not cached)
    return NodeParts(nodes=nodes, calls=calls, signals=PostgresSignals(address, calls))
