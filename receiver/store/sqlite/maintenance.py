"""Maintenance of a whole store: a full check, a verified backup, statistics."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from receiver.domain.errors import InvalidRequest, StoreBroken, StoreError, StoreUnavailable
from receiver.store.disk import give_to_owner_of, real_path, sync_file, sync_folder
from receiver.store.sqlite.database import (
    connect_reader,
    is_foreign,
    refuse_orphan_wal,
    suspect_marker,
    translate_error,
)
from receiver.store.sqlite.migrate import is_initialized, known_migrations, schema_mismatches
from receiver.store.sqlite.queries import sql

_COPY_SUFFIX = ".kling-receiver-backup"
_END_OF_TIME = (1 << 63) - 1

_FOREIGN = "is the database of another program. Check [store] url."
_NO_STORE = "contains no store. Restore a backup, or let `serve` create a new store."


def check(path: Path) -> list[str]:
    """Check the store at *path*, even while a service uses it; return the faults, one sentence each."""
    path = real_path(path)
    try:
        _require_file(path)
        with closing(connect_reader(path)) as connection:
            return find_damage(connection)
    except StoreError as exc:
        return [str(exc)]
    except sqlite3.Error as exc:
        return [f"The store cannot be read: {exc}."]


def find_damage(connection: sqlite3.Connection) -> list[str]:
    """Check every page, index, reference and migration of an open store; return the faults."""
    if is_foreign(connection):
        return [f"The file {_FOREIGN}"]
    found = _integrity_errors(connection)
    if found:
        return found  # a damaged file cannot be queried further
    if not is_initialized(connection):
        return [f"The file {_NO_STORE}"]
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        found.append(f"Row {rowid} of {table} refers to a missing row of {parent}.")
    return found + schema_mismatches(connection, known_migrations())


def _require_file(path: Path) -> None:
    """Raise StoreError if there is no file at *path*."""
    refuse_orphan_wal(path)
    if not path.is_file():
        raise StoreError(f"There is no store at {path}.")


def _require_store(path: Path, connection: sqlite3.Connection) -> None:
    """Raise StoreError if the open file at *path* is not a store."""
    if is_foreign(connection):
        raise StoreError(f"{path} {_FOREIGN}")
    if not is_initialized(connection):
        raise StoreError(f"{path} {_NO_STORE}")


def _integrity_errors(connection: sqlite3.Connection) -> list[str]:
    try:
        return [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    except sqlite3.DatabaseError as exc:
        # Some damage makes the integrity check itself fail.
        if not isinstance(translate_error(exc), StoreBroken):
            raise
        return [f"The file cannot be read completely: {exc}."]


def backup(path: Path, target: Path) -> None:
    """Copy the store at *path* to the new file *target*, even while a service uses it.

    The copy gets its final name only after it is complete, checked and on the disk.
    """
    path = real_path(path)
    if target.exists():
        raise InvalidRequest(f"{target} exists already.", remedy="Choose a file that does not exist yet.")
    _require_file(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_copies(target.parent)
        with temporary_copy(target) as copy_path:
            copy_verified(path, copy_path)
            give_to_owner_of(target.parent, copy_path)
            sync_file(copy_path)
            copy_path.rename(target)
            sync_folder(target.parent)
    except OSError as exc:
        raise StoreUnavailable(f"The backup {target} could not be written: {exc.strerror or exc}.") from exc


@contextmanager
def temporary_copy(target: Path) -> Iterator[Path]:
    """Create and lock the hidden file that becomes *target*; always remove it at the end."""
    copy_path = target.with_name(f".{target.name}.{os.getpid()}{_COPY_SUFFIX}")
    descriptor = os.open(copy_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield copy_path
    finally:
        _remove_copy(copy_path)
        os.close(descriptor)


def _remove_stale_copies(folder: Path) -> None:
    """Remove the unlocked temporary copies in *folder*, which killed backups could not remove."""
    for copy_path in folder.glob(f".*{_COPY_SUFFIX}"):
        with suppress(FileNotFoundError, BlockingIOError), copy_path.open("rb") as stale:
            fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_copy(copy_path)


def _remove_copy(copy_path: Path) -> None:
    for beside in ("-journal", "-wal", "-shm", ""):
        copy_path.with_name(f"{copy_path.name}{beside}").unlink(missing_ok=True)


def copy_verified(path: Path, copy_path: Path) -> None:
    """Copy the store at *path* without logins into the empty file *copy_path*, and check it. Raises StoreError."""
    try:
        with closing(connect_reader(path)) as source, closing(sqlite3.connect(copy_path, isolation_level=None)) as copy:
            _require_store(path, source)
            source.backup(copy)
            _delete_logins(copy)
            # The copy must be a single file. WAL mode returns when it is opened as a store.
            copy.execute("PRAGMA journal_mode = DELETE")
            found = find_damage(copy)
    except sqlite3.Error as exc:
        raise (translate_error(exc, copy_path, size=path.stat().st_size) or exc) from exc
    if found:
        raise StoreError(f"The copy is damaged and was deleted: {found[0]}")


def _delete_logins(connection: sqlite3.Connection) -> None:
    """Delete the sessions and links of the console: a restore would revive those that were ended since."""
    if connection.execute("PRAGMA table_info(console_sessions)").fetchone() is not None:
        for name in ("delete_expired_sessions", "delete_expired_links"):
            connection.execute(sql(name), {"now": _END_OF_TIME})


def verify_after_damage(path: Path, connection: sqlite3.Connection) -> None:
    """If the store broke when it was last open, check all of it. Raises StoreError."""
    marker = suspect_marker(path)
    if not marker.exists():
        return
    found = find_damage(connection)
    if found:
        raise StoreError(
            f"The store broke when it was last open, and it is damaged: {found[0]}",
            remedy="Restore a backup. `kling-receiver db check` lists all damage.",
        )
    marker.unlink()


def stats(connection: sqlite3.Connection) -> Mapping[str, int]:
    """Return the rows of every kind and the bytes they use: ``tasks.succeed``, ``events``, ``bytes.file``, ..."""
    counts = {row["name"]: row["number"] for row in connection.execute(sql("stats"))}
    pages, size, free = (
        connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("page_count", "page_size", "freelist_count")
    )
    return {**counts, "bytes.file": pages * size, "bytes.free": free * size}


def stats_at(path: Path) -> Mapping[str, int]:
    """Return the statistics of the store at *path*, even while a service uses it."""
    path = real_path(path)
    _require_file(path)
    try:
        with closing(connect_reader(path)) as connection:
            _require_store(path, connection)
            return stats(connection)
    except sqlite3.Error as exc:
        raise (translate_error(exc, path) or exc) from exc
