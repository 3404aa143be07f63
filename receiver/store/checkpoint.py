"""Moves the write-ahead log into the file, by our own hand and where we hear of what goes wrong.

SQLite would do so itself at the end of some commits, but keeps to itself what fails on the way: a broken disk would go
unnoticed there, and more would be acknowledged.
"""

import sqlite3
from pathlib import Path

import structlog

from receiver.errors import StoreBroken, StoreUnavailable
from receiver.store.database import translated

_EVERY = 100
"""Commits: under little load these make as long a log as SQLite would let grow."""

_GROWN = 4 * 1024 * 1024
"""Bytes: under much load the log grows by more than that in fewer commits."""

log = structlog.get_logger()


class Checkpoints:
    """Sees to it that the log of the store at *path* stays short."""

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self._size = 0
        self._commits = 0

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Move the log into the file where it is time to; where there is no room for it, the log keeps it all.

        Raises StoreBroken.
        """
        self._commits += 1
        try:
            size = self._log.stat().st_size  # of the room it takes: from time to time it begins anew at its beginning
            if self._commits < _EVERY and size < self._size + _GROWN:
                return
            self._commits, self._size = 0, size
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as exc:
            match translated(exc):
                case StoreUnavailable() as put_off:
                    log.warning("store.checkpoint_put_off", reason=put_off.message)
                case StoreBroken() as broken:
                    raise broken from exc
                case _:
                    raise StoreBroken(f"The store's log cannot be emptied: {exc}.") from exc


def empty_log(connection: sqlite3.Connection) -> None:
    """Move the log into the file and cut it short, as far as that can be done without waiting for a reader."""
    patience = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")
