"""A PostgreSQL store as the source or the target of a copy. It is offline: no other session may use the database."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import asyncpg

from receiver.domain.errors import InvalidRequest, StoreError, StoreLocked
from receiver.store.copying import TABLES, Row, Table
from receiver.store.postgres.database import Address, Connection, connect
from receiver.store.postgres.errors import translate_error
from receiver.store.postgres.migrate import applied, known_migrations, migrate
from receiver.store.postgres.queries import fetch, fetch_value

_STATEMENT_SECONDS = 3600.0
_LOOKS = 20
_PAUSE = 0.1


class PostgresCopySource:
    """A PostgreSQL store that is read."""

    def __init__(self, connection: Connection, label: str) -> None:
        self._connection = connection
        self.label = label

    @classmethod
    @asynccontextmanager
    async def open(cls, address: Address) -> AsyncIterator[Self]:
        """Lock all tables and read the store at *address*. Raises StoreError if it is in use or needs a migration."""
        async with _offline(address) as connection:
            if not await applied(connection):
                raise StoreError(f"{address.url} contains no store.", remedy="Check the URL.")
            if not await _is_current(connection):
                raise StoreError(f"{address.url} has an older schema.", remedy="Run `kling-receiver db migrate` first.")
            async with connection.transaction(isolation="repeatable_read"):
                await connection.execute(f"LOCK TABLE {', '.join(table.name for table in TABLES)} IN SHARE MODE NOWAIT")
                yield cls(connection, address.url)

    async def columns(self, table: Table) -> Sequence[str]:
        """Return the names of a table's columns, sorted."""
        return sorted(row["name"] for row in await fetch(self._connection, "columns_to_copy", {"table": table.name}))

    async def count(self, table: Table) -> int:
        """Return the number of rows."""
        count: int = await self._connection.fetchval(table.count_sql)
        return count

    async def rows(
        self, table: Table, columns: Sequence[str], *, after: Row | None = None
    ) -> AsyncGenerator[Row, None]:
        """Yield the rows after a key, in the order of keys. Truth values are 0 or 1."""
        key = after or ()
        statement = table.rows_sql(columns, [f"${number}" for number, _ in enumerate(key, 1)])
        async for row in self._connection.cursor(statement, *key, prefetch=table.rows_at_once):
            yield tuple(int(value) if isinstance(value, bool) else value for value in row)

    async def last_number(self, table: Table) -> int:
        """Return the last number a numbered table has given to a row."""
        return await fetch_value(self._connection, "last_number", {"table": table.name}) or 0


class PostgresCopyTarget(PostgresCopySource):
    """A PostgreSQL database that is written. No service opens it until the copy is complete."""

    @classmethod
    @asynccontextmanager
    async def open_new(cls, address: Address, *, origin: str) -> AsyncIterator[Self]:
        """Create the store of a copy of *origin*, or continue one. Raises InvalidRequest if it has other data."""
        async with _offline(address) as connection:
            if await connection.fetchval("SELECT to_regclass('copying')") is None:
                await migrate(address)
                target = cls(connection, address.url)
                for table in TABLES:
                    if await target.count(table):
                        raise InvalidRequest(
                            f"{address.url} has data already, first in the table {table.name}.",
                            remedy="Copy to a new, empty database.",
                        )
                async with connection.transaction():
                    await fetch(connection, "create_copying")
                    await fetch(connection, "mark_copy", {"origin": origin})
            begun = await fetch_value(connection, "origin_of_copy")
            if begun != origin or not await _is_current(connection):
                raise InvalidRequest(
                    f"{address.url} has an unfinished copy of {begun}.", remedy="Drop the database to start again."
                )
            yield cls(connection, address.url)

    async def rows(
        self, table: Table, columns: Sequence[str], *, after: Row | None = None
    ) -> AsyncGenerator[Row, None]:
        """Yield the rows after a key, in the order of keys."""
        async with self._connection.transaction():
            async for row in super().rows(table, columns, after=after):
                yield row

    async def last_key(self, table: Table) -> Row | None:
        """Return the greatest key."""
        row = await self._connection.fetchrow(table.last_key_sql)
        return None if row is None else tuple(row)

    async def add(self, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Add rows in one transaction."""
        found = await fetch(self._connection, "columns_to_copy", {"table": table.name})
        flags = {columns.index(row["name"]) for row in found if row["type"] == "boolean"}
        records = [tuple(bool(value) if at in flags else value for at, value in enumerate(row)) for row in rows]
        await self._connection.copy_records_to_table(table.name, records=records, columns=list(columns))

    async def clear(self, table: Table) -> None:
        """Delete all rows."""
        await self._connection.execute(table.clear_sql)

    async def set_last_number(self, table: Table, number: int) -> None:
        """Let a numbered table continue after a number."""
        if number:
            await fetch(self._connection, "set_last_number", {"table": table.name, "number": number})

    async def finish(self) -> None:
        """Let services open the complete copy, and let the planner know its tables."""
        await self._connection.execute("ANALYZE")
        await fetch(self._connection, "drop_copying")


@asynccontextmanager
async def _offline(address: Address) -> AsyncIterator[Connection]:
    """Connect, if no other session uses the database. Errors are translated."""
    connection = await connect(address, timeout=_STATEMENT_SECONDS)
    try:
        await _refuse_other_sessions(connection, address)
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
        raise (translate_error(exc) or exc) from exc
    finally:
        connection.terminate()


async def _refuse_other_sessions(connection: Connection, address: Address) -> None:
    """Raise StoreLocked if another session uses the database. One that has just ended may still be listed."""
    others = await fetch_value(connection, "other_sessions")
    for _ in range(_LOOKS):
        if not others:
            return
        await asyncio.sleep(_PAUSE)
        others = await fetch_value(connection, "other_sessions")
    raise StoreLocked(
        f"{address.url} is in use by {others} other sessions.",
        remedy="Stop all nodes and other clients. `SELECT * FROM pg_stat_activity` lists them.",
    )


async def _is_current(connection: Connection) -> bool:
    """Return whether the database has exactly this program's schema."""
    steps = known_migrations()
    return await applied(connection) == {step.version: step.checksum for step in steps}
