"""Moves the write-ahead log into the file, by our own hand and where we hear of what goes wrong.

SQLite would do so itself at the end of some commits, but keeps to itself what fails on the way: a broken disk would go
unnoticed there, and more would be acknowledged.
"""

import sqlite3
from pathlib import Path

import structlog

from receiver.domain.errors import StoreBroken, StoreUnavailable
from receiver.store.sqlite.database import StoreMoved, identity, translate_error, wal_path

_MAX_COMMITS = 100
"""Commits: under little load these make as long a log as SQLite would let grow."""

_MAX_WAL_GROWTH = 4 * 1024 * 1024
"""Bytes: under much load the log grows by more than that in fewer commits."""

log = structlog.get_logger()


class Checkpointer:
    """Sees to it that the log of the store at *path* stays short, and that file and log are still there.

    To be made before the file is opened: a file that takes its place later is another one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = identity(path)
        self._wal = wal_path(path)
        self._size = 0
        self._commits = 0

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Move the log into the file where it is time to; where there is no room for it, the log keeps it all.

        Raises StoreBroken.
        """
        self._commits += 1
        try:
            size = self._wal_size()
            if self._commits < _MAX_COMMITS and size < self._size + _MAX_WAL_GROWTH:
                return
            self._commits, self._size = 0, size
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as exc:
            match translate_error(exc):
                case StoreUnavailable() as put_off:
                    log.warning("store.checkpoint_postponed", reason=put_off.message)
                case StoreBroken() as broken:
                    raise broken from exc
                case _:
                    raise StoreBroken(f"The store's log cannot be emptied: {exc}.") from exc

    def _wal_size(self) -> int:
        """Give the room the log takes: from time to time it begins anew at its beginning.

        What is written to a file that has lost its name is gone with the process. Raises Moved, OSError.
        """
        file = identity(self._path)
        if file is None or file != self._identity:
            raise StoreMoved(self._path, expected=self._identity, is_gone=file is None)
        return self._wal.stat().st_size


def truncate_wal(connection: sqlite3.Connection) -> None:
    """Move the log into the file and cut it short, as far as that can be done without waiting for a reader."""
    patience = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")
