"""Loads the statements in ``sql/*.sql`` by name, so that SQL is written and reviewed as SQL, and runs them.

``:name`` becomes PostgreSQL's ``$1``, ``$2``, ... in the order in which a statement first uses the names. A line that
ends in ``-- if NAME`` is omitted unless that argument is given. A list is one argument of the type text[]: other types
of arrays would cost each new connection a look at the catalog.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from asyncpg import Record

from receiver.store.postgres.database import Connection
from receiver.store.rows import storable_text

_NAME = re.compile(r"^-- name: (?P<name>\w+)$", re.MULTILINE)
_OPTIONAL = re.compile(r"^(?P<line>.*?) -- if (?P<argument>\w+)$")
_PARAMETER = re.compile(r"(?<![:\w]):(?P<name>[a-z]\w*)")
_ASSIGNMENTS = ":assignments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One named statement and its purpose in one sentence."""

    name: str
    purpose: str
    sql: str


@cache
def queries() -> Mapping[str, Query]:
    """Return all statements by name; the files are read once."""
    found: dict[str, Query] = {}
    for file in sorted(files("receiver.store.postgres").joinpath("sql").iterdir(), key=lambda each: each.name):
        if not file.name.endswith(".sql"):
            continue
        for query in parse(file.read_text(encoding="utf-8")):
            if query.name in found:
                raise ValueError(f"two queries have the name {query.name}")
            found[query.name] = query
    return found


def parse(text: str) -> Sequence[Query]:
    """Parse named statements: a line ``-- name: NAME``, comment lines with the purpose, then the SQL."""
    _, *parts = _NAME.split(text)
    found = []
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        lines = block.strip().splitlines()
        purpose = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
        body = [line for line in lines if not line.startswith("--")]
        found.append(Query(name=name, purpose=" ".join(purpose), sql="\n".join(body).strip().rstrip(";")))
    return found


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


async def write_rows(connection: Connection, name: str, rows: Iterable[Sequence[object]]) -> None:
    """Run a statement for many rows, in one round trip. A row has its values in the order of the statement's names."""
    found = list(rows)
    if found:
        await connection.executemany(_compiled(name, frozenset())[0], found)


async def update_columns(
    connection: Connection, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Run a statement with ``:assignments`` for many rows, each with its key first, then the values of *columns*.

    A column that is not named costs no write of the indexes that have it.
    """
    await connection.executemany(_with_columns(name, tuple(columns)), list(rows))


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
    lines = (_resolve_optional(line, given) for line in queries()[name].sql.splitlines())
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"${names.setdefault(found['name'], len(names) + 1)}"

    statement = _PARAMETER.sub(number, "\n".join(line for line in lines if line is not None))
    return statement, tuple(names)


@cache
def _with_columns(name: str, columns: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, 2))
    return _PARAMETER.sub("$1", queries()[name].sql.replace(_ASSIGNMENTS, assignments))


def _resolve_optional(line: str, given: frozenset[str]) -> str | None:
    """Return a plain line as it is, and an optional line without its marker or None."""
    optional = _OPTIONAL.match(line)
    if optional is None:
        return line
    return optional["line"] if optional["argument"] in given else None
