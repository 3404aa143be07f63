"""Copies a store from one database to another: table by table in the order of keys, then compared row by row.

Rows are only ever added at the end of a table, so a copy that was killed continues after the last row it wrote.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeAlias

import msgspec

from receiver.domain.errors import StoreError
from receiver.store.rows import storable_text

_MAX_ROWS = 2000
_MAX_BYTES = 8 * 1024 * 1024
_REPORT_ROWS = 20_000
_ROWS_WITH_BODIES = 20

Row: TypeAlias = tuple[object, ...]
Report = Callable[[str, int, int], None]
"""Is called with what is done to which table, the number of rows done, and their total."""

_encode = msgspec.msgpack.Encoder().encode


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table and its key. ``numbered``: it numbers its rows by itself, and never uses a number twice.

    ``replaced``: triggers write to it while others are copied, so it is cleared and copied whole, as the last one.
    ``rows_at_once``: how many rows are read at once. A row with a body may have several megabytes.
    """

    name: str
    key: tuple[str, ...]
    numbered: bool = False
    replaced: bool = False
    rows_at_once: int = 500

    @property
    def count_sql(self) -> str:
        """The statement that counts the rows."""
        return f"SELECT COUNT(*) FROM {self.name}"  # noqa: S608 -- our own names, here and below

    @property
    def clear_sql(self) -> str:
        """The statement that deletes all rows."""
        return f"DELETE FROM {self.name}"  # noqa: S608 -- see above

    @property
    def last_key_sql(self) -> str:
        """The statement that reads the greatest key."""
        newest = ", ".join(f"{column} DESC" for column in quoted(self.key))
        return f"SELECT {', '.join(quoted(self.key))} FROM {self.name} ORDER BY {newest} LIMIT 1"  # noqa: S608 -- see above

    def rows_sql(self, columns: Sequence[str], placeholders: Sequence[str]) -> str:
        """Return the statement that reads the rows in the order of keys, after the key in *placeholders*, if any."""
        key = ", ".join(quoted(self.key))
        start = f"WHERE ({key}) > ({', '.join(placeholders)})" if placeholders else ""
        return f"SELECT {', '.join(quoted(columns))} FROM {self.name} {start} ORDER BY {key}"  # noqa: S608 -- see above

    def insert_sql(self, columns: Sequence[str]) -> str:
        """Return the statement that inserts a row, with question marks."""
        names, values = ", ".join(quoted(columns)), ", ".join("?" * len(columns))
        return f"INSERT INTO {self.name} ({names}) VALUES ({values})"  # noqa: S608 -- see above


def quoted(columns: Sequence[str]) -> Sequence[str]:
    """Return names of columns in quotes: some of them are words of SQL."""
    return [f'"{column}"' for column in columns]


TABLES = (
    Table(name="batches", key=("name",)),
    Table(name="tasks", key=("id",)),
    Table(name="intents", key=("task_id",), rows_at_once=_ROWS_WITH_BODIES),
    Table(name="request_digests", key=("task_id",)),
    Table(name="traces", key=("task_id",)),
    Table(name="costs", key=("task_id",)),
    Table(name="deleted_costs", key=("task_id",)),
    Table(name="pushes", key=("task_id", "id"), rows_at_once=_ROWS_WITH_BODIES),
    Table(name="events", key=("seq",), numbered=True, rows_at_once=_ROWS_WITH_BODIES),
    Table(name="deliveries", key=("id",)),
    Table(name="attempts", key=("delivery_id", "number")),
    Table(name="assets", key=("event_id", "number")),
    Table(name="removals", key=("place",)),
    Table(name="routes", key=("name",)),
    Table(name="replays", key=("id",)),
    Table(name="actions", key=("seq",), numbered=True),
    Table(name="alerts", key=("id",)),
    Table(name="reports", key=("day",)),
    Table(name="durations", key=("kind",)),
    Table(name="bill_checks", key=("only",)),
    Table(name="counters", key=("name", "label"), replaced=True),
)
"""Every table with data of its own, those that others refer to first."""


class CopiedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table whose rows are the same in both databases, with the SHA-256 of all of them."""

    name: str
    rows: int
    digest: str


class CopySource(Protocol):
    """A store that is read, at one point in time."""

    @property
    def label(self) -> str:
        """What it is called in messages."""
        ...

    async def columns(self, table: Table) -> Sequence[str]:
        """Return the names of a table's columns, sorted."""
        ...

    async def count(self, table: Table) -> int:
        """Return the number of rows."""
        ...

    def rows(self, table: Table, columns: Sequence[str], *, after: Row | None = None) -> AsyncGenerator[Row, None]:
        """Yield the rows after a key, in the order of keys. Truth values are 0 or 1."""
        ...

    async def last_number(self, table: Table) -> int:
        """Return the last number a numbered table has given to a row; 0 if none."""
        ...


class CopyTarget(CopySource, Protocol):
    """A new store that is written."""

    async def last_key(self, table: Table) -> Row | None:
        """Return the greatest key."""
        ...

    async def add(self, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Add rows in one transaction."""
        ...

    async def clear(self, table: Table) -> None:
        """Delete all rows."""
        ...

    async def set_last_number(self, table: Table, number: int) -> None:
        """Let a numbered table continue after a number."""
        ...

    async def finish(self) -> None:
        """Make the complete copy a store that a service may open."""
        ...


async def copy_store(source: CopySource, target: CopyTarget, report: Report) -> Sequence[CopiedTable]:
    """Copy and compare all tables, then finish the copy. Raises StoreError if the databases differ."""
    for table in TABLES:
        await _copy_table(source, target, table, report)
    copied = [await _compare(source, target, table, report) for table in TABLES]
    await target.finish()
    return copied


async def _copy_table(source: CopySource, target: CopyTarget, table: Table, report: Report) -> None:
    columns = await _common_columns(source, target, table)
    total, done = await source.count(table), 0
    if table.replaced:
        await target.clear(table)
    after = await target.last_key(table)
    if after is not None:
        done = await target.count(table)
    async with aclosing(source.rows(table, columns, after=after)) as rows:
        async for chunk in _chunks(rows):
            await target.add(table, columns, chunk)
            done += len(chunk)
            report(f"copy {table.name}", done, total)
    if table.numbered:
        await target.set_last_number(table, await source.last_number(table))


async def _common_columns(source: CopySource, target: CopyTarget, table: Table) -> Sequence[str]:
    columns, others = await source.columns(table), await target.columns(table)
    if columns != others:
        raise StoreError(
            f"The table {table.name} has the columns {', '.join(columns)} in {source.label} and {', '.join(others)} in "
            f"{target.label}.",
            remedy="Update this program, and run `kling-receiver db migrate` first.",
        )
    return columns


async def _chunks(rows: AsyncIterator[Row]) -> AsyncIterator[Sequence[Row]]:
    """Yield storable rows in chunks, whose number and size are limited."""
    chunk: list[Row] = []
    size = 0
    async for row in rows:
        chunk.append(tuple(storable_text(value) if isinstance(value, str) else value for value in row))
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(chunk) >= _MAX_ROWS or size >= _MAX_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


async def _compare(source: CopySource, target: CopyTarget, table: Table, report: Report) -> CopiedTable:
    """Compare a table row by row."""
    columns, total = await source.columns(table), await source.count(table)
    digest, count = hashlib.sha256(), 0
    async with aclosing(target.rows(table, columns)) as others, aclosing(source.rows(table, columns)) as rows:
        async for row in rows:
            wanted = _encode([storable_text(value) if isinstance(value, str) else value for value in row])
            found = await anext(others, None)
            if found is None or _encode(list(found)) != wanted:
                raise _difference(source, target, table, row, columns)
            digest.update(wanted)
            count += 1
            if count % _REPORT_ROWS == 0:
                report(f"compare {table.name}", count, total)
        found = await anext(others, None)
        if found is not None:
            raise _difference(source, target, table, found, columns)
    report(f"compare {table.name}", count, total)
    return CopiedTable(name=table.name, rows=count, digest=digest.hexdigest())


def _difference(source: CopySource, target: CopyTarget, table: Table, row: Row, columns: Sequence[str]) -> StoreError:
    key = ", ".join(f"{name} {row[columns.index(name)]}" for name in table.key)
    return StoreError(
        f"The copy differs from {source.label} in the table {table.name}, first at {key}.",
        remedy=f"{source.label} was in use since the copy began. Delete {target.label} and copy again.",
    )
