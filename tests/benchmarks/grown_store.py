"""Fills a store with the rows of many events, copied from those of one task that really ran."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}) "
_FAR_AHEAD = 4_000_000_000_000_000  # microseconds since the epoch: pending, but never due

_EVENT = "printf('evt_%025d', n)"
_DELIVERY = "printf('dlv_%025d', n)"
_COPIES: Mapping[str, Mapping[str, str]] = {
    "tasks": {
        "id": "printf('tsk_%025d', n)",
        "token_hash": "randomblob(32)",
        "kling_id": "printf('k%d', n)",
    },
    "pushes": {"id": "printf('psh_%025d', n)", "task_id": "printf('tsk_%025d', n)"},
    "events": {
        "seq": "NULL",
        "id": _EVENT,
        "task_id": "printf('tsk_%025d', n)",
        "push_id": "printf('psh_%025d', n)",
    },
    "deliveries": {"id": _DELIVERY, "event_id": _EVENT},
    "attempts": {"delivery_id": _DELIVERY},
}
_MAKE_PENDING = """
UPDATE deliveries
SET status = 'pending', due_at = :due_at, attempts = 0, finished_at = NULL
WHERE id < printf('dlv_%025d', :pending)
"""


def fill(database: Path, *, events: int, pending: int) -> None:
    """Copy the newest event with its rows *events* times; the deliveries of the first *pending* ones are pending."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for table, changed in _COPIES.items():
            connection.execute(_copy(connection, table, changed, events))
        trigger = "SELECT sql FROM sqlite_schema WHERE name = 'deliveries_end_is_final'"
        keep_final = connection.execute(trigger).fetchone()[0]
        connection.execute("DROP TRIGGER deliveries_end_is_final")
        connection.execute(_MAKE_PENDING, {"due_at": _FAR_AHEAD, "pending": pending})
        connection.execute("DELETE FROM attempts WHERE delivery_id < printf('dlv_%025d', ?)", (pending,))
        connection.execute(keep_final)
        connection.execute("COMMIT")


def age(database: Path) -> None:
    """Make all copied events so old that the next sweep deletes them."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("UPDATE events SET created_at = 0 WHERE id < 'evt_0000000000001'")


def _copy(connection: sqlite3.Connection, table: str, changed: Mapping[str, str], count: int) -> str:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(column, column) for column in columns)
    key = "delivery_id" if table == "attempts" else "id"
    select = f"SELECT {values} FROM numbers, (SELECT * FROM {table} ORDER BY {key} DESC LIMIT 1)"  # noqa: S608 -- names of our own
    return f"{_NUMBERS.format(last=count - 1)} INSERT INTO {table} ({', '.join(columns)}) {select}"
