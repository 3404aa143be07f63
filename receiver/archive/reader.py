"""Reads archived files: from the archive folder, or from the object store if there is no local file.

A file is opened by the path that the store recorded, never by a name from a request. No folder between the archive
folder and the file may be a symbolic link, so a planted link cannot lead elsewhere.
"""

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from receiver.archive.content_type import EXTENSIONS, UNKNOWN_TYPE
from receiver.archive.file_thread import in_thread
from receiver.domain.errors import FileNotStored, NotFound
from receiver.domain.model import Asset
from receiver.store.interfaces import StoredResult

_DISK_CHUNK = 64 * 1024
_OBJECT_CHUNK = 512 * 1024  # one request to the object store for each
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW  # a planted pipe must not block


def file_name(asset: Asset) -> str:
    """Return the name of an archived file, such as ``0.png``."""
    return f"{asset.number}.{EXTENSIONS.get(asset.content_type, EXTENSIONS[UNKNOWN_TYPE])}"


class ObjectSource(Protocol):
    """Reads objects that were copied to the object store."""

    async def read(self, storage: str, *, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to before *stop* of an object. Raises FileNotStored."""
        ...


class OpenResult(Protocol):
    """An archived file that is open for reading."""

    @property
    def chunk_size(self) -> int:
        """How many bytes to read at once."""
        ...

    async def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to before *stop*. Raises NotFound if they are gone."""
        ...


class ArchiveReader:
    """Opens archived files. *objects* is None without an object store."""

    def __init__(self, objects: ObjectSource | None = None) -> None:
        self._objects = objects

    @contextlib.asynccontextmanager
    async def open(self, result: StoredResult) -> AsyncIterator[OpenResult]:
        """Open an archived file until the end of the block. Raises NotFound with the reason if it is gone."""
        path, storage = result.asset.path, result.asset.storage
        if path is None and storage is not None:
            yield _Object(self._objects, storage)
            return
        with contextlib.ExitStack() as opened:
            # The thread adds the file itself: a caller that is cancelled meanwhile gets no descriptor to close.
            yield _File(await in_thread(_open_recorded, Path(path or ""), result, opened))


class _File:
    chunk_size = _DISK_CHUNK

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self, start: int, stop: int) -> bytes:
        try:
            content = await in_thread(os.pread, self._descriptor, stop - start, start)
        except OSError as exc:
            raise _gone(f"it cannot be read: {exc.strerror}") from exc
        if len(content) != stop - start:
            raise _gone("it became shorter")
        return content


class _Object:
    chunk_size = _OBJECT_CHUNK

    def __init__(self, objects: ObjectSource | None, storage: str) -> None:
        self._objects = objects
        self._storage = storage

    async def read(self, start: int, stop: int) -> bytes:
        if self._objects is None:
            raise _gone("it is in an object store, and [archive.storage] is not configured")
        try:
            return await self._objects.read(self._storage, start=start, stop=stop)
        except FileNotStored as exc:
            raise NotFound(
                f"This result cannot be read from the object store. {exc.message}", remedy=exc.remedy
            ) from exc


def _open_recorded(path: Path, result: StoredResult, opened: contextlib.ExitStack) -> int:
    """Open the file of a result, to be closed by *opened*, and return its descriptor."""
    place = path.parts[-3:]
    if place[:2] != (result.task_id, result.event_id) or not place[-1].startswith(f"{result.asset.number}."):
        raise _gone("its recorded path is not one of the archive")
    try:
        descriptor = open_beneath(path.parents[2], place)
    except FileNotFoundError as exc:
        raise _gone("it was deleted or moved") from exc
    except OSError as exc:
        raise _gone(f"it cannot be opened: {exc.strerror}") from exc
    opened.callback(os.close, descriptor)
    if os.fstat(descriptor).st_size != result.asset.size:
        raise _gone("its size has changed")
    return descriptor


def open_beneath(folder: Path, place: Sequence[str]) -> int:
    """Open the regular file at *place* below *folder* and return its descriptor. No part of *place* may be a link."""
    *inner, name = place
    at = os.open(folder, _FOLDER)  # the operator may have linked the folder itself
    try:
        for part in inner:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        descriptor = os.open(name, _FILE, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError
    return descriptor


def _gone(reason: str) -> NotFound:
    return NotFound(
        f"The archived file is not available: {reason}.",
        remedy="Check the archive folder, or restore the file from a backup.",
    )
