"""A result's file on disk: a partial file while it downloads, renamed once it is complete and fsynced.

``0.png.part`` holds the bytes so far. ``.0.part`` records how many of them are fsynced and which file they belong to,
so that the download can resume. File names use our own IDs and a fixed list of extensions, never untrusted input.
"""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from receiver.domain.errors import FileNotStored
from receiver.domain.model import Asset
from receiver.net.download import ContentInfo
from receiver.store.disk import free_bytes, make_folder, sync_folder

P = ParamSpec("P")
T = TypeVar("T")

MIN_FREE_BYTES = 256 * 1024 * 1024
"""Free disk space reserved for others, above all the store."""

UNKNOWN_TYPE = "application/octet-stream"

_EXTENSIONS: Mapping[str, str] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/mp4": "m4a",
    UNKNOWN_TYPE: "bin",
}
_TYPE_ALIASES: Mapping[str, str] = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-m4a": "audio/mp4",
}
_WEB_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_TYPES_BY_EXTENSION: Mapping[str, str] = {ending: type_ for type_, ending in _EXTENSIONS.items()}

_BLOCK = 1024 * 1024  # written at a time, in a thread
_SYNC_EVERY = 16 * _BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMetadata:
    """The metadata of a partial file: how many bytes are fsynced, and which file they belong to."""

    name: str
    size: int
    content_type: str
    validator: str | None


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
        self._size = 0
        self._synced = 0

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
        if info.content_type in _WEB_PAGES:
            raise FileNotStored("The server sent a web page instead of a file.")
        self.close()
        await _in_thread(self._start, info)

    async def write(self, chunk: bytes) -> None:
        """Append *chunk*; it is written one block at a time."""
        self._buffer += chunk
        self._size += len(chunk)
        if len(self._buffer) >= _BLOCK:
            await _in_thread(self._write)

    # For the archiver.

    async def open(self) -> Path | None:
        """Create the folder. Return the file if it is complete; otherwise load the partial file and return None."""
        return await _in_thread(self._open)

    async def sync(self) -> None:
        """Fsync the partial file after an interrupted download, and close it."""
        if self._file is not None:
            await _in_thread(self._sync)
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
        await _in_thread(self._discard)

    async def remove(self) -> None:
        """Delete the partial file and the complete file: it is kept elsewhere."""
        await self.discard()
        await _in_thread(self._remove)

    async def finish(self, url: str) -> Asset:
        """Rename the complete file and return its asset."""
        return await _in_thread(self._finish, url)

    async def describe(self, path: Path, url: str) -> Asset:
        """Return the asset of a file that was complete before it was recorded in the store."""
        return await _in_thread(_asset, self._number, url, path, _TYPES_BY_EXTENSION[path.suffix[1:]])

    # Blocking disk I/O; each runs in a thread.

    def _open(self) -> Path | None:
        try:
            make_folder(self._folder)
            for ending in _TYPES_BY_EXTENSION:
                if (path := self._folder / f"{self._number}.{ending}").is_file():
                    return path
            self._load_part()
        except OSError as exc:
            raise _translate_error(exc) from exc
        return None

    def _load_part(self) -> None:
        try:
            metadata = PartMetadata(**json.loads(self._metadata_path.read_text(encoding="utf-8")))
            size = (self._folder / metadata.name).stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return
        if metadata.name in self._parts() and size >= metadata.size:
            self._metadata, self._size = metadata, metadata.size

    def _start(self, info: ContentInfo) -> None:
        try:
            metadata = self._metadata if info.offset else None
            if metadata is None:
                self._discard()  # a useless partial file must not take the space of the new one
            self._check_free_space(0 if info.size is None else info.size - info.offset)
            if metadata is None:
                self._create_part(info)
            else:
                self._reopen_part(metadata, info)
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _reopen_part(self, metadata: PartMetadata, info: ContentInfo) -> None:
        self._file = (self._folder / metadata.name).open("r+b")
        self._file.truncate(info.offset)
        self._file.seek(info.offset)
        self._size = self._synced = info.offset

    def _create_part(self, info: ContentInfo) -> None:
        content_type = _normalize_type(info.content_type)
        name = f"{self._number}.{_EXTENSIONS[content_type]}.part"
        self._metadata = PartMetadata(name=name, size=0, content_type=content_type, validator=info.validator)
        self._file = (self._folder / name).open("xb")

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._file.write(self._buffer)
            self._buffer.clear()
            if self._size - self._synced >= _SYNC_EVERY:
                self._check_free_space(0)
                self._sync()
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _sync(self) -> None:
        """Fsync the bytes first, then record how many."""
        if self._file is None or self._metadata is None:
            return
        try:
            self._file.write(self._buffer)
            self._buffer.clear()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._synced = self._file.tell()
            metadata = PartMetadata(**asdict(self._metadata) | {"size": self._synced})
            draft = self._folder / self._draft_name
            draft.write_text(json.dumps(asdict(metadata)), encoding="utf-8")
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
        if self._file is None:
            self._file = part.open("r+b")  # complete before this download began
        self._file.write(self._buffer)
        self._buffer.clear()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        content_type = self._metadata.content_type
        if content_type == UNKNOWN_TYPE:
            content_type = _sniff_type(part)
        path = self._folder / f"{self._number}.{_EXTENSIONS[content_type]}"
        asset = _asset(self._number, url, part, content_type, final_path=path)
        part.rename(path)
        sync_folder(self._folder)
        self._metadata_path.unlink(missing_ok=True)
        return asset

    def _discard(self) -> None:
        try:
            for leftover in (*self._parts(), self._metadata_path.name, self._draft_name):
                (self._folder / leftover).unlink(missing_ok=True)
        except OSError as exc:
            raise _translate_error(exc) from exc
        self._metadata, self._size, self._synced = None, 0, 0

    def _remove(self) -> None:
        try:
            for ending in _TYPES_BY_EXTENSION:
                (self._folder / f"{self._number}.{ending}").unlink(missing_ok=True)
        except OSError as exc:
            raise _translate_error(exc) from exc

    def _parts(self) -> list[str]:
        return [f"{self._number}.{ending}.part" for ending in _TYPES_BY_EXTENSION]

    def _check_free_space(self, needed: int) -> None:
        if self._free_space(self._folder) < needed + MIN_FREE_BYTES:
            raise FileNotStored(
                "The disk is almost full.", remedy="Free space under [archive] dir; the download is retried."
            )


async def _in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *work* in a thread. If cancelled, wait until it ends: two threads must never use one file."""
    future = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        future.exception()  # marks it as retrieved
        raise


def _asset(number: int, url: str, file: Path, content_type: str, *, final_path: Path | None = None) -> Asset:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
        size = content.tell()
    path = str(final_path or file)
    return Asset(number=number, url=url, path=path, sha256=digest.digest(), size=size, content_type=content_type)


def _normalize_type(content_type: str) -> str:
    content_type = _TYPE_ALIASES.get(content_type, content_type)
    return content_type if content_type in _EXTENSIONS else UNKNOWN_TYPE


def _sniff_type(file: Path) -> str:
    """Return the content type by the first bytes of the file, if the server sent no known type."""
    with file.open("rb") as content:
        head = content.read(12)
    for start, content_type in (
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"ID3", "audio/mpeg"),
        (b"\x1aE\xdf\xa3", "video/webm"),
    ):
        if head.startswith(start):
            return content_type
    inner = {b"WEBP": "image/webp", b"WAVE": "audio/wav"} if head.startswith(b"RIFF") else {}
    return "video/mp4" if head[4:8] == b"ftyp" else inner.get(head[8:12], UNKNOWN_TYPE)


def remove_empty_folder(folder: Path) -> None:
    """Remove the folders of an event and its task if they are empty."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _translate_error(exc: OSError) -> FileNotStored:
    return FileNotStored(f"The file could not be written: {exc.strerror or exc}.", remedy="Check [archive] dir.")
