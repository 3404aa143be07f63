"""Fills a store with the rows of many events, copied from those of one task that really ran."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from receiver.domain.clock import MICROSECOND, first_id, from_micros, micros

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) "
_FAR_AHEAD = 4_000_000_000_000_000  # microseconds since the epoch: pending, but never due
_SPAN = timedelta(days=30)
"""How long ago the first copy was made."""

_TASK, _PUSH, _EVENT, _DELIVERY = (f"id_of('{prefix}', n)" for prefix in ("tsk", "psh", "evt", "dlv"))
_COPIES: Mapping[str, Mapping[str, str]] = {
    "tasks": {
        "id": _TASK,
        "token_hash": "randomblob(32)",
        "kling_id": "printf('k%d', n)",
        "created_at": "time_of(n)",
        "updated_at": "time_of(n)",
        "endpoint": "iif(n % 2, 'images/generations', 'images/multi-image2image')",
        "label": "'label ' || n % 20",
        "tags": "json_object('client', 'client ' || n % 50)",
    },
    "pushes": {"id": _PUSH, "task_id": _TASK, "received_at": "time_of(n)"},
    "events": {"seq": "NULL", "id": _EVENT, "task_id": _TASK, "push_id": _PUSH, "created_at": "time_of(n)"},
    "deliveries": {"id": _DELIVERY, "event_id": _EVENT, "created_at": "time_of(n)"},
    "attempts": {"delivery_id": _DELIVERY, "started_at": "time_of(n)"},
}
_CHARGE = "INSERT INTO costs SELECT id, updated_at, json_object('units', rowid % 5 || '.5'), '{}' FROM tasks"
_MAKE_PENDING = """
UPDATE deliveries
SET status = 'pending', due_at = :due_at, attempts = 0, finished_at = NULL
WHERE id < id_of('dlv', :pending)
"""


def fill(database: Path, *, events: int, pending: int) -> None:
    """Copy the newest event with its rows *events* times; the deliveries of the first *pending* ones are pending.

    The copies are spread over the days before.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        _name_copies(connection, events)
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for table, changed in _COPIES.items():
            connection.execute(_copy(connection, table, changed, events))
        connection.execute(_CHARGE)
        trigger = "SELECT sql FROM sqlite_schema WHERE name = 'deliveries_end_is_final'"
        keep_final = connection.execute(trigger).fetchone()[0]
        connection.execute("DROP TRIGGER deliveries_end_is_final")
        connection.execute(_MAKE_PENDING, {"due_at": _FAR_AHEAD, "pending": pending})
        connection.execute("DELETE FROM attempts WHERE delivery_id < id_of('dlv', ?)", (pending,))
        connection.execute(keep_final)
        connection.execute("COMMIT")


def _name_copies(connection: sqlite3.Connection, count: int) -> None:
    """Give the connection functions for the ids and the times of *count* copies, oldest first."""
    last = micros(datetime.now(UTC)) - 3_600_000_000
    first, step = last - _SPAN // MICROSECOND, (_SPAN // MICROSECOND) // count

    def id_of(prefix: str, number: int) -> str:
        return first_id(prefix, from_micros(first + number * step))

    connection.create_function("id_of", 2, id_of, deterministic=True)
    connection.create_function("time_of", 1, lambda number: first + number * step, deterministic=True)


def age(database: Path) -> None:
    """Make all copied events so old that the next sweep deletes them."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("UPDATE events SET created_at = 0 WHERE id LIKE '%0000000000000'")


def _copy(connection: sqlite3.Connection, table: str, changed: Mapping[str, str], count: int) -> str:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(column, column) for column in columns)
    key = "delivery_id" if table == "attempts" else "id"
    select = f"SELECT {values} FROM numbers, (SELECT * FROM {table} ORDER BY {key} DESC LIMIT 1)"  # noqa: S608 -- names of our own
    return f"{_NUMBERS.format(last=count - 1)} INSERT INTO {table} ({', '.join(columns)}) {select}"
