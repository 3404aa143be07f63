"""A store of the first schemas, as an older version left it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from receiver.store.sqlite.database import connect_writer
from receiver.store.sqlite.migrate import known_migrations, upgrade

OLD_VERSION = 4

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
_PUSHES_PER_TASK = 10
_PUSHES = """
INSERT INTO pushes (id, task_id, source, headers, body, digest, received_at, outcome)
SELECT
    printf('psh_%025d', n), printf('tsk_%025d', 1 + (n - 1) / 10), 'callback', '[]',
    CAST(printf('{"task_id":"%d","task_status":"processing"}', n) AS BLOB), zeroblob(32), n, 'duplicate'
FROM numbers
"""
_EVENTS = """
INSERT INTO events (id, type, envelope, body, verified, created_at, decisions)
SELECT printf('evt_%025d', n), 'alert.disk_full', CAST('{"data":{}}' AS BLOB), x'', 'none', n, '[]' FROM numbers
"""


def make_older_store(path: Path, *, events: int) -> None:
    """Create a store of schema 4 with this many events and pushes, and a tenth as many tasks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(connect_writer(path)) as connection:
        upgrade(connection, [step for step in known_migrations() if step.version <= OLD_VERSION])
        connection.execute("BEGIN")
        _insert_tasks(connection, max(1, events // _PUSHES_PER_TASK))
        connection.execute(_NUMBERS + _PUSHES, (events,))
        connection.execute(_NUMBERS + _EVENTS, (events,))
        connection.execute("COMMIT")


def _insert_tasks(connection: sqlite3.Connection, count: int) -> None:
    given = {"id": "printf('tsk_%025d', n)", "origin": "'minted'", "state": "'awaiting'", "tags": "'{}'"}
    columns = {
        name: given.get(name, "0" if kind == "INTEGER" else "''")
        for _, name, kind, required, *_ in connection.execute("PRAGMA table_info (tasks)")
        if required or name in given
    }
    insert = f" INSERT INTO tasks ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM numbers"  # noqa: S608 -- names of columns
    connection.execute(_NUMBERS + insert, (count,))


def schema_version(path: Path) -> int:
    """Return the newest migration that a store has."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT max(version) FROM migrations").fetchone()[0])
