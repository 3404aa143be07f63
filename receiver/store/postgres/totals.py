"""Monitoring of a PostgreSQL store: its state within a bounded time, and totals that survive a restart.

Triggers count dead deliveries and spent amounts in the transaction that causes them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import asyncpg

from receiver.store.interfaces import StoreSnapshot, Total
from receiver.store.postgres import catalog
from receiver.store.postgres.database import Connection, Reader
from receiver.store.postgres.queries import fetch, fetch_value, write_each
from receiver.store.postgres.writer import WriteOp, Writer

T = TypeVar("T")

_MAX_QUERY_SECONDS = 0.5


class PostgresTotals:
    """Totals and the present state."""

    def __init__(self, writer: Writer, lists: Reader) -> None:
        self._writer = writer
        self._lists = lists

    async def raise_to(self, total: Total, amount: float) -> None:
        """Set a total without a label to *amount*, unless it is higher already."""
        await self._writer.execute(_RAISE, (total, amount))

    async def read(self) -> Mapping[Total, Mapping[str, float]]:
        """Return each total's amounts by label."""
        return await self._lists.read(_read_totals)

    async def snapshot(self) -> StoreSnapshot:
        """Return the state of the store. Each query may take half a second."""
        return await self._lists.read(_snapshot)


async def _raise_totals(connection: Connection, group: Sequence[tuple[Total, float]]) -> Sequence[None]:
    await write_each(connection, "raise_total", sorted(group))
    return [None] * len(group)


_RAISE: WriteOp[tuple[Total, float], None] = WriteOp(write=_raise_totals)


async def _read_totals(connection: Connection) -> Mapping[Total, Mapping[str, float]]:
    found: dict[Total, dict[str, float]] = {total: {} for total in Total}
    for row in await fetch(connection, "totals"):
        found[Total(row["name"])][row["label"]] = row["total"]
    return found


async def _snapshot(connection: Connection) -> StoreSnapshot:
    return StoreSnapshot(
        tasks=await _limited(connection, lambda each: catalog.counts(each, None, None)),
        backlog=await _limited(connection, catalog.backlog),
        route_states=await _limited(connection, catalog.route_states),
        slots_in_use=await _limited(connection, _slots_in_use),
        totals=await _limited(connection, _read_totals),
        size=await _limited(connection, _size),
    )


async def _limited(connection: Connection, read: Callable[[Connection], Awaitable[T]]) -> T | None:
    """Return what *read* returns, or None if a query of it takes too long."""
    try:
        async with connection.transaction(readonly=True):
            await connection.execute(f"SET LOCAL statement_timeout = {int(_MAX_QUERY_SECONDS * 1000)}")
            return await read(connection)
    except asyncpg.QueryCanceledError:
        return None


async def _slots_in_use(connection: Connection) -> Mapping[str, int]:
    return {row["slot_key"]: row["slots"] for row in await fetch(connection, "slots_in_use")}


async def _size(connection: Connection) -> int:
    size: int = await fetch_value(connection, "database_size")
    return size
