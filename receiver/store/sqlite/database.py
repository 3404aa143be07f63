"""One SQLite file: its lock, its connections and the meaning of its errors."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from receiver.domain.errors import Conflict, ReceiverError, StoreBroken, StoreError, StoreLocked, StoreUnavailable
from receiver.store.disk import give_to_owner_of, is_space_used_up, make_folder, sync_folder
from receiver.store.sqlite.connection_thread import ConnectionThread

P = ParamSpec("P")
R = TypeVar("R")

APPLICATION_ID = 0x4B6C5265
"""Stored in the file's header, so that the database of another program is not mistaken for a store."""

_SYNCHRONOUS_FULL = 2
BUSY_TIMEOUT_MS = 5_000
_CACHED_STATEMENTS = 512
_WAL_LIMIT = 64 * 1024 * 1024
_PROBE_SIZE = 64 * 1024

# Errors that a later try may not meet. A wal-index that cannot grow is a full disk, reported as an I/O error.
_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
})  # fmt: skip
_UNAVAILABLE_IO = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_NOMEM})
# Of those that are StoreUnavailable, these mean that a write found no space.
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
# After one of these errors, acknowledged data may be lost.
_BROKEN = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

log = structlog.get_logger()


@contextmanager
def exclusive(path: Path, *, create: bool) -> Iterator[None]:
    """Create the file if it is missing, make it private and lock it. Raises StoreError."""
    with ExitStack() as stack:
        try:
            refuse_orphan_wal(path)
            make_private(path, create=create)
            stack.enter_context(locked(path))
            _refuse_foreign_wal(path)
        except OSError as exc:
            raise StoreUnavailable(
                f"The store {path} cannot be used: {exc.strerror or exc}.",
                remedy=f"The account that runs this needs write access to {path.parent} and free disk space.",
            ) from exc
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the store at *path*. The lock file beside it contains our process id.

    The file stays after the release: without it, two processes could lock two files of the same name.
    """
    beside = path.with_name(f"{path.name}.lock")
    descriptor = _open_lock(beside)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreLocked(
                f"The store {path} is in use by process {holder}.",
                remedy="Only one process can use a SQLite store: stop the other one first.",
            ) from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Open a lock file, or create it. If root creates it, it belongs to the owner of its folder."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # never through a symbolic link
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    give_to_owner_of(path.parent, path)
    return descriptor


def refuse_orphan_wal(path: Path) -> None:
    """Refuse a write-ahead log whose database is empty or missing: SQLite would delete the log. Raises StoreError."""
    log_beside = wal_path(path)
    if _size(path) or not _size(log_beside):
        return
    what = f"{path} is empty" if path.exists() else f"There is no store at {path}"
    raise StoreError(
        f"{what}, but its write-ahead log {log_beside} contains acknowledged data.",
        remedy="Restore the file that the log belongs to. If it is lost, move the log away and restore a backup.",
    )


def _refuse_foreign_wal(path: Path) -> None:
    """Refuse a replaced database: SQLite would apply the write-ahead log of the old file to the new one."""
    marker, log_beside = suspect_marker(path), wal_path(path)
    inode = marker.read_text().strip() if marker.exists() else ""
    if not inode or inode == str(path.stat().st_ino) or not _size(log_beside):
        return
    raise StoreError(
        f"{path} replaced another file that was in use, and the log beside it belongs to the other file.",
        remedy=f"Restore the other file with `mv`. To use this one without the log, move {log_beside} away.",
    )


def identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode, which differ for another file of the same name; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def wal_path(path: Path) -> Path:
    """Return the path of the write-ahead log of the store at *path*."""
    return path.with_name(f"{path.name}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def make_private(path: Path, *, create: bool) -> None:
    """Create the file if it is missing and make it private; a folder created for it is private too."""
    if not path.exists():
        if not create:
            raise StoreError(f"There is no store at {path}.", remedy="Check [store] url; `serve` creates a new one.")
        make_folder(path.parent, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        sync_folder(path.parent)
    path.chmod(0o600)


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the only connection that writes and checkpoints. Its thread and the event loop use it in turns."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=_CACHED_STATEMENTS
    )
    with _closed_on_failure(connection):
        _prepare(connection)
        if is_foreign(connection):
            raise StoreError(f"{path} is the database of another program.", remedy="Check [store] url.")
        if _pragma(connection, "journal_mode = WAL") != "wal":
            raise StoreError(f"The file system of {path} does not support WAL mode.", remedy="Use a local disk.")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoint.py
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection, which never checkpoints: only the writer does."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=_CACHED_STATEMENTS)
    with _closed_on_failure(connection):
        _prepare(connection)
        connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def _closed_on_failure(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


@contextmanager
def no_busy_timeout(connection: sqlite3.Connection) -> Iterator[None]:
    """Let statements of the block fail at once, instead of waiting for other processes."""
    busy_timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout}")


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Return whether the file is the database of another program."""
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables) and _pragma(connection, "application_id") != APPLICATION_ID


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    # Some builds of SQLite silently ignore a pragma. Without FULL, a power cut loses acknowledged data.
    if _pragma(connection, "synchronous") != _SYNCHRONOUS_FULL or _pragma(connection, "foreign_keys") != 1:
        raise StoreError(
            "This SQLite build may lose acknowledged data: it ignores synchronous=FULL or foreign_keys=ON.",
            remedy="Use a standard build of SQLite.",
        )


def _pragma(connection: sqlite3.Connection, pragma: str) -> object:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def translate_error(exc: Exception, path: Path | None = None, *, size: int = 0) -> ReceiverError | None:
    """Translate a SQLite error into ours; None if it is a programming error.

    *path* is the file that was written, *size* the size that it was to have at least.
    """
    if isinstance(exc, ReceiverError):
        return exc
    code = getattr(exc, "sqlite_errorcode", None)
    if not isinstance(exc, sqlite3.Error) or code is None:
        return None
    primary = code & 0xFF
    if primary in _UNAVAILABLE or code in _UNAVAILABLE_IO:
        return StoreUnavailable(f"The store is temporarily unavailable: {exc}.")
    if primary in _BROKEN:
        is_full = code == sqlite3.SQLITE_IOERR_WRITE and path is not None and _is_full(path, size)
        return _disk_full() if is_full else _broken(exc)
    return Conflict(f"The store refused the write: {exc}.") if primary == sqlite3.SQLITE_CONSTRAINT else None


def _is_full(path: Path, size: int) -> bool:
    """Return whether a failed write means a full disk. SQLite reports a used-up quota or size limit as an I/O error."""
    try:
        return is_space_used_up(path.parent, size=_PROBE_SIZE, offset=max(_size(path), _size(wal_path(path)), size))
    except OSError:
        return False


def _disk_full() -> StoreUnavailable:
    return StoreUnavailable(
        "The store's disk is full: a quota or a limit on the size of files is used up.",
        remedy="Raise it or make room: writes resume by themselves.",
    )


def _broken(exc: Exception) -> StoreBroken:
    return StoreBroken(
        f"The store is broken: {exc}.",
        remedy="Check the disk, then run `kling-receiver db check`. If it finds damage, restore a backup.",
    )


class StoreMoved(StoreBroken):
    """The store's file was removed or replaced while it was open; ``expected`` is the identity of the open file."""

    def __init__(self, path: Path, *, expected: tuple[int, int] | None, is_gone: bool) -> None:
        how = "removed" if is_gone else "replaced by another file"
        super().__init__(
            f"{path} was {how} while it was in use.",
            remedy="Restore the original file with `mv`. If it is lost, restore a backup.",
        )
        self.expected = expected


class Health:
    """Whether the store is broken. Once it is, every call raises the same error and nothing is acknowledged.

    A marker file beside the store makes the next start check the whole store first.
    """

    def __init__(self, path: Path) -> None:
        self.broken = asyncio.Event()
        self._found_no_space = False
        self._path = path
        self._marker = suspect_marker(path)
        self._fault: StoreBroken | None = None

    def check(self) -> None:
        """Raise StoreBroken if the store is broken."""
        if self._fault is not None:
            raise StoreBroken(self._fault.message, remedy=self._fault.remedy)

    def refuses_writes(self) -> bool:
        """Return whether a write found no space, and still would find none."""
        self._found_no_space = self._found_no_space and _is_full(self._path, 0)
        return self._found_no_space

    async def guard(self, awaitable: Awaitable[R]) -> R:
        """Await work on the file and translate its errors."""
        try:
            return await awaitable
        except Exception as exc:
            translated = self.classify(exc)
            if translated is exc:
                raise
            raise translated from exc

    def classify(self, exc: Exception) -> Exception:
        """Translate an error of a connection. The first StoreBroken is stored as the fault."""
        translated = translate_error(exc, self._path)
        if isinstance(translated, StoreUnavailable):
            self._found_no_space |= getattr(exc, "sqlite_errorcode", 0) & 0xFF in _NO_SPACE
        if isinstance(translated, StoreBroken) and self._fault is None:
            self._fault = translated
            log.error("store.damaged", reason=translated.message, remedy=translated.remedy)
            try:
                self._marker.touch(mode=0o600)
                if isinstance(translated, StoreMoved) and translated.expected is not None:
                    self._marker.write_text(f"{translated.expected[1]}\n")
            except OSError:  # a disk that broke the store may also refuse the marker
                log.warning("store.marker_not_written", path=str(self._marker))
            self.broken.set()
        return translated or exc


def suspect_marker(path: Path) -> Path:
    """Return the path of the marker file, which exists if the store broke when it was last open.

    If the store was moved while open, the marker contains its inode. Device numbers may change at a restart.
    """
    return path.with_name(f"{path.name}.suspect")


class Reader:
    """Calls functions on a connection that only reads, until the store is closed."""

    def __init__(self, thread: ConnectionThread, health: Health) -> None:
        self._thread = thread
        self._health = health
        self._closed = False

    async def read(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what *function* returns for the connection. Raises StoreUnavailable if the store is closed."""
        self._health.check()
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        return await self._health.guard(self._thread.run(function, *args, **kwargs))

    def close(self) -> None:
        """Refuse further reads."""
        self._closed = True


async def open_thread(
    stack: AsyncExitStack, health: Health, connect: Callable[[], sqlite3.Connection], name: str
) -> ConnectionThread:
    """Open a connection in its own thread and close it with *stack*."""
    thread = await health.guard(ConnectionThread.open(connect, name=name))
    stack.push_async_callback(thread.aclose)
    return thread
