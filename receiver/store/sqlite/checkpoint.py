"""Checkpoints the write-ahead log into the database file, instead of SQLite's automatic checkpoints.

SQLite hides the errors of an automatic checkpoint. A broken disk would go unnoticed, and the store would go on
acknowledging writes.
"""

import sqlite3
from pathlib import Path

import structlog

from receiver.domain.errors import StoreBroken, StoreUnavailable
from receiver.store.sqlite.database import StoreMoved, identity, no_busy_timeout, translate_error, wal_path

_MAX_COMMITS = 100
"""Commits between checkpoints: under light load the log then grows about as long as SQLite's default allows."""

_MAX_WAL_GROWTH = 4 * 1024 * 1024
"""Bytes between checkpoints: under heavy load the log grows by this much in fewer commits."""

log = structlog.get_logger()


class Checkpointer:
    """Keeps the log of the store at *path* short, and checks that the file and its log still exist.

    Create it before the file is opened, so that a later replacement of the file is detected.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = identity(path)
        self._wal = wal_path(path)
        self._size = 0
        self._commits = 0

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Checkpoint the log if it is due. If the disk is full, the log keeps the data. Raises StoreBroken."""
        self._commits += 1
        try:
            size = self._wal_size()
            if self._commits < _MAX_COMMITS and size < self._size + _MAX_WAL_GROWTH:
                return
            self._commits, self._size = 0, size
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as exc:
            match translate_error(exc, self._path):
                case StoreUnavailable() as unavailable:
                    log.warning("store.checkpoint_postponed", reason=unavailable.message)
                case StoreBroken() as broken:
                    raise broken from exc
                case _:
                    raise StoreBroken(f"The store's write-ahead log cannot be checkpointed: {exc}.") from exc

    def _wal_size(self) -> int:
        """Return the size of the log file. SQLite reuses it from the beginning from time to time.

        Data written to a file without a name is lost when the process ends. Raises StoreMoved, OSError.
        """
        file = identity(self._path)
        if file is None or file != self._identity:
            raise StoreMoved(self._path, expected=self._identity, is_gone=file is None)
        return self._wal.stat().st_size


def truncate_wal(connection: sqlite3.Connection) -> None:
    """Checkpoint and truncate the log, as far as possible without waiting for a reader."""
    with no_busy_timeout(connection):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
