"""Loads the statements in ``sql/*.sql`` and the shared ones by name, so that SQL is reviewed as SQL, and runs them.

``:name`` becomes PostgreSQL's ``$1``, ``$2``, ... in the order in which a statement first uses the names. A list is one
argument. In statements that read, it has the type text[]: other types of arrays cost each new connection a look at the
catalog.

A statement that writes many rows takes one array for each column: one statement for a hundred rows costs the server a
third of what a hundred statements cost.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from asyncpg import Record

from receiver.store.named_queries import Query, read_queries
from receiver.store.postgres.database import Connection
from receiver.store.rows import storable_text

_PARAMETER = re.compile(r"(?<![:\w]):(?P<name>[a-z]\w*)")
_ARRAY = re.compile(r":(?P<name>[a-z]\w*)::(?P<type>\w+)\[\]")
_NUMBER = re.compile(r"\$(?P<number>\d+)")

_MAX_BYTES = 8 << 20


class Statement(msgspec.Struct, frozen=True):
    """A named statement that takes arrays. One with ``:assignments`` updates *columns*, typed as in *types_of*."""

    name: str
    columns: tuple[str, ...] = ()
    types_of: str = ""


Write: TypeAlias = tuple[Statement, Iterable[Sequence[object]]]
"""A statement that takes arrays, and its rows."""


@cache
def queries() -> Mapping[str, Query]:
    """Return all statements by name; the files are read once."""
    return read_queries(Path(__file__).with_name("sql"))


async def fetch(connection: Connection, name: str, arguments: Mapping[str, object] | None = None) -> Sequence[Record]:
    """Return the rows of a statement."""
    statement, values = bind(name, arguments or {})
    return await connection.fetch(statement, *values)


async def fetch_row(connection: Connection, name: str, arguments: Mapping[str, object] | None = None) -> Record | None:
    """Return the first row of a statement, or None."""
    statement, values = bind(name, arguments or {})
    return await connection.fetchrow(statement, *values)


async def fetch_value(connection: Connection, name: str, arguments: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 -- the statement defines its type
    """Return the first value of the first row of a statement, or None."""
    statement, values = bind(name, arguments or {})
    return await connection.fetchval(statement, *values)


async def change(connection: Connection, name: str, arguments: Mapping[str, object] | None = None) -> int:
    """Run a statement that changes rows; return their number."""
    statement, values = bind(name, arguments or {})
    tag = await connection.execute(statement, *values)
    return int(tag.rpartition(" ")[2])


async def write_each(connection: Connection, name: str, rows: Iterable[Sequence[object]]) -> None:
    """Run a statement for each row in turn, in one round trip. A row has its values in the order of the names."""
    found = list(rows)
    if found:
        await connection.executemany(_compiled(name, frozenset())[0], found)


async def write_rows(connection: Connection, name: str, rows: Iterable[Sequence[object]]) -> None:
    """Run a statement that takes arrays once for many rows. A row has its values in the order of the names."""
    await write_together(connection, (Statement(name), rows))


async def write_together(connection: Connection, *writes: Write) -> None:
    """Run some statements that take arrays in one round trip. None of them sees what the others write."""
    last: list[tuple[Statement, Sequence[Sequence[object]]]] = []
    for statement, rows in writes:
        chunks = _chunks(rows)
        for chunk in chunks[:-1]:
            await _write(connection, (statement, chunk))
        last += [(statement, chunk) for chunk in chunks[-1:]]
    if last:
        await _write(connection, *last)


async def write_returning(connection: Connection, name: str, rows: Sequence[Sequence[object]]) -> Sequence[Record]:
    """Run a statement that takes arrays once for some small rows, and return what it returns."""
    return await connection.fetch(_compiled(name, frozenset())[0], *zip(*rows, strict=True))


async def _write(connection: Connection, *writes: tuple[Statement, Sequence[Sequence[object]]]) -> None:
    arrays = [column for _, rows in writes for column in zip(*rows, strict=True)]
    await connection.execute(_joined(tuple(statement for statement, _ in writes)), *arrays)


def _chunks(rows: Iterable[Sequence[object]]) -> Sequence[Sequence[Sequence[object]]]:
    """Split rows so that a statement's bodies do not fill the server's memory."""
    chunks: list[list[Sequence[object]]] = []
    size = _MAX_BYTES
    for row in rows:
        if size >= _MAX_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += sum(len(value) for value in row if isinstance(value, bytes))
    return chunks


async def change_audited(
    connection: Connection, name: str, arguments: Mapping[str, object], *, action: Sequence[object]
) -> bool:
    """Change one row and store the audit entry. Return False and store nothing if no row changed."""
    if await change(connection, name, arguments) != 1:
        return False
    await write_rows(connection, "insert_action", [action])
    return True


def bind(name: str, arguments: Mapping[str, object]) -> tuple[str, list[object]]:
    """Return a statement for the arguments that are given, and the values of its parameters in order."""
    given = frozenset(key for key, value in arguments.items() if value is not None)
    statement, names = _compiled(name, given)
    return statement, [_storable(arguments[each]) for each in names]


def _storable(value: object) -> object:
    """Return an argument that PostgreSQL accepts. Its text has no NULs, which nothing that is stored has either."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, list | tuple | set | frozenset | Sequence) and not isinstance(value, bytes):
        return [_storable(each) for each in value]
    return value


@cache
def _compiled(name: str, given: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """Return a statement for the *given* arguments, and the names of its parameters in order."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"${names.setdefault(found['name'], len(names) + 1)}"

    statement = _PARAMETER.sub(number, queries()[name].with_optional(dict.fromkeys(given, True)))
    return statement, tuple(names)


@cache
def _joined(statements: tuple[Statement, ...]) -> str:
    """Return one statement that runs several. The numbers of parameters continue from one to the next."""
    parts: list[str] = []
    count = 0
    for statement in statements:
        text, parameters = _compiled_write(statement)
        parts.append(_renumbered(text, count))
        count += parameters
    *others, last = parts
    if not others:
        return last
    return f"WITH {', '.join(f'write_{at} AS ({part})' for at, part in enumerate(others))}\n{last}"


def _renumbered(text: str, offset: int) -> str:
    return _NUMBER.sub(lambda found: f"${int(found['number']) + offset}", text)


def _compiled_write(statement: Statement) -> tuple[str, int]:
    """Return the SQL of a statement, and the number of its parameters."""
    if not statement.columns:
        text, names = _compiled(statement.name, frozenset())
        return text, len(names)
    types = _array_types(statement.types_of)
    arrays = [f"${number}::{types[column]}[]" for number, column in enumerate(("id", *statement.columns), 1)]
    text = queries()[statement.name].sql
    for mark, filled in (
        (":assignments", [f"{column} = changed.{column}" for column in statement.columns]),
        (":arrays", arrays),
        (":columns", statement.columns),
    ):
        text = text.replace(mark, ", ".join(filled))
    return text, len(arrays)


def _array_types(name: str) -> Mapping[str, str]:
    """Return the types of a statement's arrays, by name."""
    return {found["name"]: found["type"] for found in _ARRAY.finditer(queries()[name].sql)}
