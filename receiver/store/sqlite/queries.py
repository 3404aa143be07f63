"""Loads the statements of ``sql/queries.sql`` by name, so that SQL is written and reviewed as SQL."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import msgspec

_NAME = re.compile(r"^-- name: (?P<name>\w+)$", re.MULTILINE)
_OPTIONAL = re.compile(r"^(?P<line>.*?) -- if (?P<argument>\w+)$")
_MANY = ":many"
_ROW = re.compile(r"(?<=VALUES )\(\?(?:, \?)*\)")
_MAX_ROWS = 64  # a power of two; 64 of the widest rows stay within SQLite's limit of arguments


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One named statement and its purpose in one sentence."""

    name: str
    purpose: str
    sql: str

    def with_optional(self, arguments: Mapping[str, object]) -> str:
        """Return the statement without the optional lines whose argument is None or absent."""
        return _with_optional(self.sql, frozenset(name for name, value in arguments.items() if value is not None))

    def with_list(self, count: int) -> str:
        """Return the statement with *count* placeholders instead of ``:many``."""
        return self.sql.replace(_MANY, ", ".join("?" * count))

    def with_columns(self, columns: Sequence[str]) -> str:
        """Return the statement with these columns instead of ``:columns``, ``:placeholders`` and ``:assignments``."""
        assignments = ", ".join(f"{column} = updated.{column}" for column in columns)
        placeholders = ", ".join("?" * len(columns))
        return (
            self.sql.replace(":columns", ", ".join(columns))
            .replace(":placeholders", placeholders)
            .replace(":assignments", assignments)
        )

    def with_rows(self, count: int) -> str:
        """Return the statement with *count* rows after its ``VALUES``."""
        return _ROW.sub(lambda row: ", ".join([row[0]] * count), self.sql)


@cache
def queries() -> Mapping[str, Query]:
    """Return all statements by name; the file is read once."""
    return parse(files("receiver.store.sqlite").joinpath("sql/queries.sql").read_text(encoding="utf-8"))


def sql(name: str) -> str:
    """Return the text of the statement *name*."""
    return queries()[name].sql


def write_rows(connection: sqlite3.Connection, name: str, rows: Iterable[tuple[object, ...]]) -> None:
    """Run a statement for many rows, in chunks of 64, 32, 16 and so on, so that few statements serve every count.

    Python releases and takes its lock around each statement, which costs more than one row.
    """
    _write_in_chunks(connection, lambda size: _with_rows(name, size), list(rows))


def update_columns(
    connection: sqlite3.Connection, name: str, columns: Sequence[str], rows: Iterable[tuple[object, ...]]
) -> None:
    """Run a statement with ``:columns`` for many rows, each with its key first, then the values of *columns*.

    A column that is not named costs no write of the indexes that have it.
    """
    chosen = tuple(columns)
    _write_in_chunks(connection, lambda size: _with_columns(name, chosen, size), list(rows))


def _write_in_chunks(
    connection: sqlite3.Connection, statement: Callable[[int], str], rows: list[tuple[object, ...]]
) -> None:
    size = _MAX_ROWS
    while rows:
        while size > len(rows):
            size //= 2
        connection.execute(statement(size), [value for row in rows[:size] for value in row])
        del rows[:size]


def change_audited(
    connection: sqlite3.Connection, name: str, arguments: Mapping[str, object], *, action: tuple[object, ...]
) -> bool:
    """Change one row and store the audit entry. Return False and store nothing if no row changed."""
    if connection.execute(sql(name), arguments).rowcount != 1:
        return False
    connection.execute(sql("insert_action"), action)
    return True


def json_arguments(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a statement with each tuple and dictionary as JSON, for json_each."""
    return {name: json.dumps(value) if isinstance(value, tuple | dict) else value for name, value in arguments.items()}


@cache
def _with_columns(name: str, columns: tuple[str, ...], count: int) -> str:
    narrowed = Query(name=name, purpose="", sql=queries()[name].with_columns(columns))
    return narrowed.with_rows(count)


@cache
def _with_rows(name: str, count: int) -> str:
    return queries()[name].with_rows(count)


def parse(text: str) -> Mapping[str, Query]:
    """Parse named statements: a line ``-- name: NAME``, comment lines with the purpose, then the SQL."""
    _, *parts = _NAME.split(text)
    found: dict[str, Query] = {}
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        if name in found:
            raise ValueError(f"two queries have the name {name}")
        lines = block.strip().splitlines()
        purpose = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
        body = [line for line in lines if not line.startswith("--")]
        found[name] = Query(name=name, purpose=" ".join(purpose), sql="\n".join(body).strip().rstrip(";"))
    return found


@cache
def _with_optional(statement: str, arguments: frozenset[str]) -> str:
    lines = (_resolve_optional(line, arguments) for line in statement.splitlines())
    return "\n".join(line for line in lines if line is not None)


def _resolve_optional(line: str, arguments: frozenset[str]) -> str | None:
    """Return a plain line as it is, and an optional line without its marker or None."""
    optional = _OPTIONAL.match(line)
    if optional is None:
        return line
    return optional["line"] if optional["argument"] in arguments else None
