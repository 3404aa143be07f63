"""Loads the statements in ``sql/*.sql`` and the shared ones by name, so that SQL is reviewed as SQL.

A list of variable length is one JSON argument, read by json_each, or ``:many`` values, see `with_list`: JSON cannot
hold bytes, and for a few values json_each takes longer.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from receiver.store.named_queries import Query, read_queries

T = TypeVar("T")

_ROW = re.compile(r"(?<=VALUES )\(\?(?:, \?)*\)")
_CHUNKS = (64, 32, 16, 8, 7, 6, 5, 4, 3, 2, 1)
"""Sizes of chunks. Few, because each is a statement; small ones exactly, because a second statement costs more than
rows. 64 of the widest rows stay within SQLite's limit of arguments.
"""


@cache
def queries() -> Mapping[str, Query]:
    """Return all statements by name; the files are read once."""
    return read_queries(Path(__file__).with_name("sql"))


def sql(name: str) -> str:
    """Return the text of the statement *name*."""
    return queries()[name].sql


def with_list(name: str, values: Sequence[T]) -> tuple[str, Sequence[T]]:
    """Return a statement for a list of at least one value, and the list.

    The list is padded to a power of two, so that few statements serve every size.
    """
    size = 1 << (len(values) - 1).bit_length()
    return queries()[name].with_list(size), [*values, *[values[0]] * (size - len(values))]


def write_rows(
    connection: sqlite3.Connection, name: str, rows: Iterable[tuple[object, ...]]
) -> Sequence[tuple[Any, ...]]:
    """Run a statement for many rows, in chunks of a few sizes, so that few statements serve every count.

    Python releases and takes its lock around each statement, which costs more than one row. Return what the statement
    returns, in no order.
    """
    return _write_in_chunks(connection, lambda size: _with_rows(name, size), list(rows))


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
) -> Sequence[tuple[Any, ...]]:
    returned: list[tuple[Any, ...]] = []
    while rows:
        size = next(size for size in _CHUNKS if size <= len(rows))
        returned += connection.execute(statement(size), [value for row in rows[:size] for value in row])
        del rows[:size]
    return returned


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
    """Return a statement with *columns* for ``:columns``, ``:placeholders`` and ``:assignments``, and *count* rows."""
    statement = (
        sql(name)
        .replace(":columns", ", ".join(columns))
        .replace(":placeholders", ", ".join("?" * len(columns)))
        .replace(":assignments", ", ".join(f"{column} = updated.{column}" for column in columns))
    )
    return _repeat_row(statement, count)


@cache
def _with_rows(name: str, count: int) -> str:
    return _repeat_row(sql(name), count)


def _repeat_row(statement: str, count: int) -> str:
    """Return a statement with *count* rows after its ``VALUES``."""
    return _ROW.sub(lambda row: ", ".join([row[0]] * count), statement)
