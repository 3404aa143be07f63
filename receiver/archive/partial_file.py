"""A result's file on disk: a partial file while it downloads, renamed once it is complete, fsynced and verified.

``0.png.part`` holds the bytes so far. ``.0.part`` records how many of them are fsynced, their hash, and which file they
belong to, so that the download can resume. File names use our own IDs and a fixed list of extensions, never untrusted
input.

The bytes are hashed as they arrive. The file gets its name only if the disk returns the same bytes.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec.structs import asdict, replace

from receiver.archive import content_type
from receiver.archive.file_thread import in_thread
from receiver.domain.errors import FileNotStored
from receiver.domain.model import Asset
from receiver.net.download import ContentInfo
from receiver.store.disk import free_bytes, is_disk_full, make_folder, open_with_mode, sync_folder

MIN_FREE_BYTES = 256 * 1024 * 1024
"""Free disk space reserved for others, above all the store."""

FOLDER_MODE = 0o750
"""The mode of the archive's folders."""

_FILE_MODE = 0o640
"""Exact permissions, under every umask: the group may read the results."""

_BLOCK = 1024 * 1024  # written at a time, in a thread
_SYNC_EVERY = 16 * _BLOCK
_HEAD_BYTES = 64  # enough for each known type
_FREE_SPACE = "Free space under [archive] dir; the download is retried."


class PartMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a partial file: how many bytes are fsynced, their hash, and which file they belong to."""

    name: str
    size: int
    sha256: str
    content_type: str
    validator: str | None


class NotAFile(FileNotStored):
    """The server answered 200 with an error document instead of the file."""

    def __init__(self, document: str) -> None:
        super().__init__(f"The server sent {document} instead of a file.")


class PartialFile:
    """The file of one result, in its event's folder."""

    def __init__(self, folder: Path, number: int, *, free_space: Callable[[Path], int] = free_bytes) -> None:
        self._folder = folder
        self._number = number
        self._free_space = free_space
        self._metadata_path = folder / f".{number}.part"
        self._draft_name = f".{number}.part.new"
        self._metadata: PartMetadata | None = None
        self._file: BinaryIO | None = None
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._size = 0
        self._synced = 0
        self._content_type = ""

    # For the download.

    @property
    def offset(self) -> int:
        """How many bytes of the file exist already."""
        return self._size

    @property
    def validator(self) -> str | None:
        """The validator (ETag or date) of the file that the part belongs to."""
        return None if self._metadata is None else self._metadata.validator

    async def start(self, info: ContentInfo) -> None:
        """Open the partial file to resume it, or a new one."""
        if document := content_type.document_of_type(info.content_type):
            raise NotAFile(document)
        self.close()
        self._content_type = info.content_type
        await in_thread(self._start, info)

    async def write(self, chunk: bytes) -> None:
        """Append *chunk*; it is written one block at a time."""
        self._buffer += chunk
        self._size += len(chunk)
        if len(self._buffer) >= _BLOCK:
            await in_thread(self._write)

    # For the archiver.

    async def open(self) -> Path | None:
        """Create the folder. Return the file if it is complete; otherwise load the partial file and return None."""
        return await in_thread(self._open)

    async def sync(self) -> None:
        """Fsync the partial file after an interrupted download, and close it."""
        if self._file is not None:
            await in_thread(self._sync)
            self.close()

    def close(self) -> None:
        """Close the partial file as it is. Bytes that are not fsynced do not count."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._buffer.clear()

    async def discard(self) -> None:
        """Delete the partial file."""
        self.close()
        await in_thread(self._discard)

    async def remove(self) -> None:
        """Delete the partial file and the complete file: it is kept elsewhere."""
        await self.discard()
        await in_thread(self._remove)

    async def finish(self, url: str) -> Asset:
        """Rename the complete file and return its asset."""
        return await in_thread(self._finish, url)

    async def describe(self, path: Path, url: str) -> Asset:
        """Return the asset of a file that was complete before it was recorded in the store."""
        return await in_thread(_describe, self._number, url, path)

    # Blocking disk I/O; each runs in a thread.

    def _open(self) -> Path | None:
        try:
            make_folder(self._folder, mode=FOLDER_MODE)
            for ending in content_type.TYPES_BY_EXTENSION:
                if (path := self._folder / f"{self._number}.{ending}").is_file():
                    return path
            self._load_part()
        except OSError as exc:
            raise _translate_error(exc) from exc
        return None

    def _load_part(self) -> None:
        try:
            metadata = PartMetadata(**json.loads(self._metadata_path.read_text(encoding="utf-8")))
            if metadata.name not in self._parts():
                return
            hasher = _hash_file(self._folder / metadata.name, size=metadata.size)
        except (FileNotFoundError, ValueError, TypeError):
            return
        if hasher.hexdigest() == metadata.sha256:
            self._metadata, self._size, self._hash = metadata, metadata.size, hasher

    def _start(self, info: ContentInfo) -> None:
        try:
            metadata = self._metadata if info.offset else None
            if metadata is None:
                self._discard()  # a useless partial file must not take the space of the new one
            self._check_free_space(0 if info.size is None else info.size - info.offset)
            if metadata is None:
                self._create_part(info)
            else:
                self._reopen_part(metadata)
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _reopen_part(self, metadata: PartMetadata) -> BinaryIO:
        self._file = (self._folder / metadata.name).open("r+b")
        self._file.truncate(metadata.size)
        self._file.seek(metadata.size)
        self._size = self._synced = metadata.size
        return self._file

    def _create_part(self, info: ContentInfo) -> None:
        type_ = content_type.normalize(info.content_type)
        name = f"{self._number}.{content_type.EXTENSIONS[type_]}.part"
        self._metadata = PartMetadata(
            name=name, size=0, sha256=self._hash.hexdigest(), content_type=type_, validator=info.validator
        )
        self._file = open_with_mode(self._folder / name, _FILE_MODE)

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._append(self._file)
            if self._size - self._synced >= _SYNC_EVERY:
                self._check_free_space(0)
                self._sync()
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _append(self, file: BinaryIO) -> None:
        """Write and hash the buffered bytes. Raises NotAFile if the file begins as an error document."""
        if file.tell() == 0 and (document := content_type.document_in(self._buffer, self._content_type)):
            self._discard()
            raise NotAFile(document)
        file.write(self._buffer)
        self._hash.update(self._buffer)
        self._buffer.clear()

    def _sync(self) -> None:
        """Fsync the bytes first, then record how many."""
        if self._file is None or self._metadata is None:
            return
        try:
            self._append(self._file)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._synced = self._file.tell()
            metadata = replace(self._metadata, size=self._synced, sha256=self._hash.hexdigest())
            draft = self._folder / self._draft_name
            draft.unlink(missing_ok=True)
            with open_with_mode(draft, _FILE_MODE) as file:
                file.write(json.dumps(asdict(metadata)).encode())
            draft.rename(self._metadata_path)
        except OSError as exc:
            raise _translate_error(exc) from exc
        self._metadata, self._size = metadata, self._synced

    def _finish(self, url: str) -> Asset:
        try:
            return self._finalize(url)
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _finalize(self, url: str) -> Asset:
        if self._metadata is None or not self._size:
            raise FileNotStored("The file is empty.")
        part = self._folder / self._metadata.name
        file = self._file or self._reopen_part(self._metadata)  # None: it was complete before this download began
        self._append(file)
        file.flush()
        os.fsync(file.fileno())
        self.close()
        found = _describe(self._number, url, part, self._metadata.content_type)
        if (found.size, found.sha256) != (self._size, self._hash.digest()):
            self._discard()
            raise FileNotStored(
                "The file on the disk differs from the bytes that were received.",
                remedy="Check the disk of [archive] dir; the download starts again.",
            )
        path = self._folder / f"{self._number}.{content_type.EXTENSIONS[found.content_type]}"
        part.rename(path)
        sync_folder(self._folder)
        self._metadata_path.unlink(missing_ok=True)
        return msgspec.structs.replace(found, path=str(path))

    def _discard(self) -> None:
        try:
            for leftover in (*self._parts(), self._metadata_path.name, self._draft_name):
                (self._folder / leftover).unlink(missing_ok=True)
        except OSError as exc:
            raise _translate_error(exc) from exc
        self._metadata, self._size, self._synced, self._hash = None, 0, 0, hashlib.sha256()

    def _remove(self) -> None:
        try:
            for ending in content_type.TYPES_BY_EXTENSION:
                (self._folder / f"{self._number}.{ending}").unlink(missing_ok=True)
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _parts(self) -> list[str]:
        return [f"{self._number}.{ending}.part" for ending in content_type.TYPES_BY_EXTENSION]

    def _check_free_space(self, needed: int) -> None:
        if self._free_space(self._folder) < needed + MIN_FREE_BYTES:
            raise FileNotStored("The disk is almost full.", remedy=_FREE_SPACE)


def _describe(number: int, url: str, file: Path, type_: str | None = None) -> Asset:
    """Read a file and return its asset. Without *type_* its extension says the type."""
    type_ = type_ or content_type.TYPES_BY_EXTENSION[file.suffix[1:]]
    with file.open("rb") as content:
        if type_ == content_type.UNKNOWN_TYPE:
            type_ = content_type.sniff(content.read(_HEAD_BYTES))
            content.seek(0)
        digest = hashlib.file_digest(content, "sha256").digest()
        size = content.tell()
    return Asset(number=number, url=url, path=str(file), sha256=digest, size=size, content_type=type_)


def _hash_file(file: Path, *, size: int) -> "hashlib._Hash":
    """Hash the first *size* bytes of a file, or all of it if it is shorter."""
    hasher = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(min(_BLOCK, size)):
            hasher.update(block)
            size -= len(block)
    return hasher


def remove_empty_folder(folder: Path) -> None:
    """Remove the folders of an event and its task if they are empty."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _translate_error(exc: OSError) -> FileNotStored:
    remedy = _FREE_SPACE if is_disk_full(exc) else "Check [archive] dir."
    return FileNotStored(f"The file could not be written: {exc.strerror or exc}.", remedy=remedy)
