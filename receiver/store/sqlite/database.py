"""One SQLite file: who may have it, how it is opened, which thread touches it, and what its errors mean."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite
import structlog

from receiver.domain.errors import Conflict, ReceiverError, StoreBroken, StoreError, StoreLocked, StoreUnavailable

P = ParamSpec("P")
R = TypeVar("R")

APPLICATION_ID = 0x4B6C5265
"""Written into the file's header, so that another program's database is not taken for a store."""

_SYNCHRONOUS_FULL = 2
_BUSY_TIMEOUT_MS = 5_000
_CACHED_STATEMENTS = 256
_WAL_LIMIT = 64 * 1024 * 1024
_ITER_CHUNK_SIZE = 64

# What a later try may mend. A wal-index that cannot grow is a full disk too, under an I/O error's name.
_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
})  # fmt: skip
_UNAVAILABLE_IO = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_NOMEM})
# After one of these nothing that was acknowledged can be vouched for.
_BROKEN = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

log = structlog.get_logger()


@contextmanager
def exclusive(path: Path, *, create: bool) -> Iterator[None]:
    """See to it that the file exists, is ours alone and is locked by us. Raises StoreError."""
    with ExitStack() as stack:
        try:
            refuse_orphan_wal(path)
            make_private(path, create=create)
            stack.enter_context(locked(path))
            _refuse_foreign_wal(path)
        except OSError as exc:
            raise StoreUnavailable(
                f"The store {path} cannot be worked on: {exc.strerror or exc}.",
                remedy=f"The account that runs this needs to write in {path.parent}, and room to do so.",
            ) from exc
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the store at *path* alone, by a lock on a file beside it that names our process.

    The file stays when the lock goes: to remove it would let two processes lock two files of one name.
    """
    beside = path.with_name(f"{path.name}.lock")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreLocked(
                f"The store {path} is in use by process {holder}.",
                remedy="One process works on a SQLite store at a time: stop the other one first.",
            ) from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def refuse_orphan_wal(path: Path) -> None:
    """Stop before SQLite sees a log whose file is empty or gone: it would remove the log. Raises StoreError."""
    log_beside = wal_path(path)
    if _size(path) or not _size(log_beside):
        return
    what = f"{path} is empty" if path.exists() else f"There is no store at {path}"
    raise StoreError(
        f"{what}, but the log beside it is not empty: {log_beside} holds what was acknowledged last.",
        remedy="Put the file back that the log belongs to; if it is lost, move the log away and restore a backup.",
    )


def _refuse_foreign_wal(path: Path) -> None:
    """Stop before SQLite plays the log of a store that was replaced into the file that took its place."""
    mark, log_beside = suspect_marker(path), wal_path(path)
    was = mark.read_text().strip() if mark.exists() else ""
    if not was or was == str(path.stat().st_ino) or not _size(log_beside):
        return
    raise StoreError(
        f"{path} took the place of another file while that was worked on, and the log beside it is the other's.",
        remedy=f"Put the other back by `mv`; where this one is to be used as it is, move {log_beside} away.",
    )


def identity(path: Path) -> tuple[int, int] | None:
    """Tell one file from another that has its name, by device and inode; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def wal_path(path: Path) -> Path:
    """Name the write-ahead log of the store at *path*."""
    return path.with_name(f"{path.name}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def make_private(path: Path, *, create: bool) -> None:
    """See to it that the file exists and is ours alone; a folder made for it is ours alone too."""
    if not path.exists():
        if not create:
            raise StoreError(f"There is no store at {path}.", remedy="Check [store] url; `serve` makes a new one.")
        make_folder(path.parent)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        sync(path.parent)
    path.chmod(0o600)


def make_folder(folder: Path) -> None:
    """Make a folder that outlasts a power cut: a name is sure only once the folder it stands in is on the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the one connection that writes and checkpoints."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=_CACHED_STATEMENTS)
    with _closed_on_failure(connection):
        _prepare(connection)
        if is_foreign(connection):
            raise StoreError(f"{path} is a database of another program.", remedy="Check [store] url.")
        if _pragma(connection, "journal_mode = WAL") != "wal":
            raise StoreError(f"The file system under {path} cannot hold a write-ahead log.", remedy="Use a local disk.")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoint.py
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot write, so that it never checkpoints beside the writer."""
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


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Tell whether the file is a database, and not one of ours."""
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables) and _pragma(connection, "application_id") != APPLICATION_ID


def _prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    # A build of SQLite may ignore a pragma in silence; with less than FULL a power cut loses what was acknowledged.
    if _pragma(connection, "synchronous") != _SYNCHRONOUS_FULL or _pragma(connection, "foreign_keys") != 1:
        raise StoreError("This SQLite does not keep what it acknowledges: it refuses synchronous=FULL or foreign keys.")


def _pragma(connection: sqlite3.Connection, pragma: str) -> object:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def translate_error(exc: Exception) -> ReceiverError | None:
    """Say in our words what a SQLite error means; None for what is a fault of the program."""
    if isinstance(exc, ReceiverError):
        return exc
    code = getattr(exc, "sqlite_errorcode", None)
    if not isinstance(exc, sqlite3.Error) or code is None:
        return None
    primary = code & 0xFF
    if primary in _UNAVAILABLE or code in _UNAVAILABLE_IO:
        return StoreUnavailable(f"The store cannot do it just now: {exc}.")
    if primary in _BROKEN:
        return StoreBroken(
            f"The store is broken: {exc}.",
            remedy="Look after the disk, then run `kling-receiver db check`; where it finds damage, restore a backup.",
        )
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return Conflict(f"The store refuses it: {exc}.")
    return None


class StoreMoved(StoreBroken):
    """The store's file is no longer where it was opened; *was* tells which one that was."""

    def __init__(self, path: Path, *, expected: tuple[int, int] | None, is_gone: bool) -> None:
        how = "removed" if is_gone else "replaced by another file"
        super().__init__(
            f"{path} was {how} while it was worked on.",
            remedy="Put the file that was there back by `mv`; if it is lost, restore a backup.",
        )
        self.expected = expected


class Health:
    """Remembers that a store broke: from then on every call ends the same way, and nothing is acknowledged.

    A mark beside the file tells the next start to look through the whole store before it goes on.
    """

    def __init__(self, path: Path) -> None:
        self.broken = asyncio.Event()
        self._marker = suspect_marker(path)
        self._fault: StoreBroken | None = None

    def check(self) -> None:
        """Raise where the store is broken."""
        if self._fault is not None:
            raise StoreBroken(self._fault.message, remedy=self._fault.remedy)

    async def guard(self, awaitable: Awaitable[R]) -> R:
        """Wait for something done to the file, and tell its errors in our words."""
        try:
            return await awaitable
        except Exception as exc:
            meant = self.classify(exc)
            if meant is exc:
                raise
            raise meant from exc

    def classify(self, exc: Exception) -> Exception:
        """Translate what a connection raised; the first sign of a broken store is remembered."""
        meant = translate_error(exc)
        if isinstance(meant, StoreBroken) and self._fault is None:
            self._fault = meant
            log.error("store.damaged", reason=meant.message, remedy=meant.remedy)
            try:
                self._marker.touch(mode=0o600)
                if isinstance(meant, StoreMoved) and meant.expected is not None:
                    self._marker.write_text(f"{meant.expected[1]}\n")
            except OSError:  # the disk that broke the store may well refuse the mark
                log.warning("store.marker_not_written", path=str(self._marker))
            self.broken.set()
        return meant or exc


def suspect_marker(path: Path) -> Path:
    """Name the file whose being there says that the store broke when it was last open.

    Where the store was taken away meanwhile, its inode stands in it; devices may have other numbers after a restart.
    """
    return path.with_name(f"{path.name}.suspect")


class ConnectionThread(aiosqlite.Connection):
    """A connection and the one thread that ever touches it; what is run on it runs in order.

    aiosqlite's own methods take a turn in the thread for every statement. Under load the turns cost more than the
    statements, so whole steps go over at once.
    """

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection], *, name: str) -> "ConnectionThread":
        """Start the thread and let it open its connection."""
        lane = cls(connect, _ITER_CHUNK_SIZE)
        lane._thread.name = name
        try:
            await lane
        except BaseException:
            # It ends by itself, but only now is the loop sure to be there for its last word.
            await asyncio.to_thread(lane._thread.join)
            raise
        return lane

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Do *work* with the connection in its thread. A caller that gives up does not stop it."""
        done: R = await self._execute(partial(function, self._conn), *args, **kwargs)  # type: ignore[no-untyped-call]  # aiosqlite leaves it untyped
        return done

    async def aclose(self) -> None:
        """Finish what was begun, close the connection, end the thread."""
        await self.close()
