"""Looks after a store as a whole: a check from end to end, a backup that is known to be good, counts."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from receiver.domain.errors import InvalidRequest, StoreBroken, StoreError, StoreUnavailable
from receiver.store.sqlite.database import (
    connect_reader,
    is_foreign,
    refuse_orphan_wal,
    suspect_marker,
    sync,
    translate_error,
)
from receiver.store.sqlite.migrate import is_initialized, known_migrations, schema_mismatches
from receiver.store.sqlite.queries import sql

_COPY_SUFFIX = ".kling-receiver-backup"

_FOREIGN = "is a database of another program. Check [store] url."
_NO_STORE = "holds no store. Restore a backup; where there never was one, `serve` makes it."


def check(path: Path) -> list[str]:
    """Look through the store at *path*, also while a service works on it; give the faults, one sentence each."""
    try:
        _require_file(path)
        with closing(connect_reader(path)) as connection:
            return find_damage(connection)
    except StoreError as exc:
        return [str(exc)]
    except sqlite3.Error as exc:
        return [f"The store cannot be read: {exc}."]


def find_damage(connection: sqlite3.Connection) -> list[str]:
    """Look through every page, index, reference and migration of an open store."""
    if is_foreign(connection):
        return [f"The file {_FOREIGN}"]
    found = _integrity_errors(connection)
    if found:
        return found  # what is damaged cannot be asked about the rest
    if not is_initialized(connection):
        return [f"The file {_NO_STORE}"]
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        found.append(f"Row {rowid} of {table} points at something missing in {parent}.")
    return found + schema_mismatches(connection, known_migrations())


def _require_file(path: Path) -> None:
    """See whether there is anything to be opened at *path*. Raises StoreError."""
    refuse_orphan_wal(path)
    if not path.is_file():
        raise StoreError(f"There is no store at {path}.")


def _require_store(path: Path, connection: sqlite3.Connection) -> None:
    """See whether what was opened at *path* is a store at all. Raises StoreError."""
    if is_foreign(connection):
        raise StoreError(f"{path} {_FOREIGN}")
    if not is_initialized(connection):
        raise StoreError(f"{path} {_NO_STORE}")


def _integrity_errors(connection: sqlite3.Connection) -> list[str]:
    try:
        return [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    except sqlite3.DatabaseError as exc:
        # Some damage is such that even the search for damage stops at it.
        if not isinstance(translate_error(exc), StoreBroken):
            raise
        return [f"The file cannot be read to its end: {exc}."]


def backup(path: Path, target: Path) -> None:
    """Copy the store at *path* to the new file *target* while it is worked on.

    The copy appears under its name only when it is whole, checked and on the disk.
    """
    if target.exists():
        raise InvalidRequest(f"{target} exists already.", remedy="Name a file that does not exist yet.")
    _require_file(path)
    try:
        _remove_stale_copies(target.parent)
        with _temporary_copy(target) as draft:
            _copy(path, draft)
            sync(draft)
            draft.rename(target)
            sync(target.parent)
    except OSError as exc:
        raise StoreUnavailable(f"The backup could not be written: {exc.strerror or exc}.") from exc
    except sqlite3.Error as exc:
        raise (translate_error(exc) or exc) from exc


@contextmanager
def _temporary_copy(target: Path) -> Iterator[Path]:
    """Make the hidden file that becomes *target*, locked for as long as it is worked on; whatever happens, it goes."""
    draft = target.with_name(f".{target.name}.{os.getpid()}{_COPY_SUFFIX}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield draft
    finally:
        _remove_copy(draft)
        os.close(descriptor)


def _remove_stale_copies(folder: Path) -> None:
    """Remove the drafts in *folder* that nobody works on any more: a backup that is killed cannot do so itself."""
    for draft in folder.glob(f".*{_COPY_SUFFIX}"):
        with suppress(FileNotFoundError, BlockingIOError), draft.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_copy(draft)


def _remove_copy(copy_path: Path) -> None:
    for beside in ("-journal", "-wal", "-shm", ""):
        copy_path.with_name(f"{copy_path.name}{beside}").unlink(missing_ok=True)


def _copy(path: Path, copy_path: Path) -> None:
    with closing(connect_reader(path)) as source, closing(sqlite3.connect(copy_path, isolation_level=None)) as copy:
        _require_store(path, source)
        source.backup(copy)
        # A single file that can be carried away; the log comes back when it is opened as a store.
        copy.execute("PRAGMA journal_mode = DELETE")
        found = find_damage(copy)
    if found:
        raise StoreError(f"The copy is not sound, so it was not kept: {found[0]}")


def verify_after_damage(path: Path, connection: sqlite3.Connection) -> None:
    """Where the store broke when it was last open, look through it before anything relies on it again."""
    mark = suspect_marker(path)
    if not mark.exists():
        return
    found = find_damage(connection)
    if found:
        raise StoreError(
            f"The store broke when it was last open, and it is damaged: {found[0]}",
            remedy="Restore a backup; `kling-receiver db check` lists all the damage.",
        )
    mark.unlink()


def stats(connection: sqlite3.Connection) -> Mapping[str, int]:
    """Count the rows of every kind and the bytes they take: ``tasks.succeed``, ``events``, ``bytes.file``, ..."""
    counts = {row["name"]: row["number"] for row in connection.execute(sql("stats"))}
    pages, size, free = (
        connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("page_count", "page_size", "freelist_count")
    )
    return {**counts, "bytes.file": pages * size, "bytes.free": free * size}


def stats_at(path: Path) -> Mapping[str, int]:
    """Give the counts of the store at *path*, also while a service works on it."""
    _require_file(path)
    try:
        with closing(connect_reader(path)) as connection:
            _require_store(path, connection)
            return stats(connection)
    except sqlite3.Error as exc:
        raise (translate_error(exc) or exc) from exc
