"""Results as one zip, made while it is sent: neither the disk nor the memory holds it. Files are stored as they are."""

import asyncio
import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import IO

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Send

from receiver.archive.file_thread import in_thread
from receiver.archive.reader import ArchiveReader, OpenResult, file_name
from receiver.domain.errors import NotFound
from receiver.domain.result_names import stems
from receiver.store.interfaces import StoredResult
from receiver.web.console.renderer import SECURITY_HEADERS
from receiver.web.console.shown_results import ShownTask

_MANIFEST = ("file", "label", "task", "endpoint", "url", "bytes", "message")
_FILE_MODE = 0o644 << 16


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A result in the zip: its name without extension. ``stored`` is None if it is not archived."""

    stem: str
    task: ShownTask
    url: str
    stored: StoredResult | None


class ResultZip(StreamingResponse):
    """The archived results of *tasks* in one zip, with a manifest. Starlette cancels it when the client disconnects."""

    def __init__(
        self, tasks: Sequence[ShownTask], reader: ArchiveReader, limit: asyncio.Semaphore, *, name: str
    ) -> None:
        headers = {**SECURITY_HEADERS, "content-disposition": f'attachment; filename="{name}.zip"'}
        super().__init__((), headers=headers, media_type="application/zip")
        self._entries = list(_entries(tasks))
        self._reader = reader
        self._limit = limit
        self._names: set[str] = set()

    async def stream_response(self, send: Send) -> None:
        """Send the files one after another, then the manifest, when it is this zip's turn."""
        async with self._limit:
            await self._send_all(send)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        writer = _ZipWriter()
        try:
            rows = [await self._send_entry(entry, writer, send) for entry in self._entries]
            writer.add("manifest.csv", _manifest(rows), max(entry.task.ended_at for entry in self._entries))
            await send({"type": "http.response.body", "body": writer.finish()})
        finally:
            writer.abandon()

    async def _send_entry(self, entry: _Entry, writer: "_ZipWriter", send: Send) -> dict[str, object]:
        """Send one file, and return its line of the manifest. A missing file is only in the manifest."""
        task = entry.task
        row: dict[str, object] = {
            "file": "",
            "label": task.label,
            "task": task.id,
            "endpoint": task.endpoint,
            "url": entry.url,
        }
        if entry.stored is None:
            return row | {"message": "not archived"}
        try:
            async with self._reader.open(entry.stored) as file:
                name = self._unique(entry, file_name(entry.stored.asset).partition(".")[2])
                await _send_file(file, entry.stored, writer, send, name=name, at=task.ended_at)
        except NotFound as exc:
            if writer.is_writing:  # half of a file cannot be taken back
                raise
            return row | {"message": exc.message}
        return row | {"file": name, "bytes": entry.stored.asset.size}

    def _unique(self, entry: _Entry, extension: str) -> str:
        name = f"{entry.stem}.{extension}"
        if name.lower() in self._names:
            name = f"{entry.stem}-{entry.task.id}.{extension}"
        self._names.add(name.lower())
        return name


async def _send_file(
    file: OpenResult, stored: StoredResult, writer: "_ZipWriter", send: Send, *, name: str, at: datetime
) -> None:
    size = stored.asset.size
    content = await file.read(0, min(file.chunk_size, size))
    writer.begin(name, size, at)
    position = 0
    while content:
        await send({"type": "http.response.body", "body": await in_thread(writer.write, content), "more_body": True})
        position += len(content)
        content = await file.read(position, min(position + file.chunk_size, size)) if position < size else b""
    writer.end()


class _ZipWriter:
    """Makes the bytes of a zip. The sizes and check sums follow each file, so nothing is read twice."""

    def __init__(self) -> None:
        self._output = _Output()
        self._zip = zipfile.ZipFile(self._output, "w", zipfile.ZIP_STORED)
        self._member: IO[bytes] | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a file has begun and not ended."""
        return self._member is not None

    def begin(self, name: str, size: int, at: datetime) -> None:
        """Begin a file of this size."""
        self._member = self._zip.open(_info(name, size, at), "w")

    def write(self, content: bytes) -> bytes:
        """Add content to the file, and return the bytes to send."""
        if self._member is not None:
            self._member.write(content)
        return self._output.take()

    def end(self) -> None:
        """End the file."""
        if self._member is not None:
            self._member.close()
            self._member = None

    def add(self, name: str, content: bytes, at: datetime) -> None:
        """Add a whole file."""
        self._zip.writestr(_info(name, len(content), at), content)

    def finish(self) -> bytes:
        """End the zip, and return the rest of its bytes."""
        self._zip.close()
        return self._output.take()

    def abandon(self) -> None:
        """Drop an unfinished zip: closing it would be an error."""
        self._zip.fp = None


class _Output:
    """Collects what the zip writes. It cannot seek, so the zip never goes back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, content: bytes, /) -> int:
        self._pieces.append(bytes(content))
        return len(content)

    def flush(self) -> None:
        """Do nothing: the bytes wait to be taken."""

    def close(self) -> None:
        """Do nothing, as above."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _info(name: str, size: int, at: datetime) -> zipfile.ZipInfo:
    moment = (at.year, at.month, at.day, at.hour, at.minute, at.second)
    info = zipfile.ZipInfo(name, moment)
    info.file_size = size
    info.external_attr = _FILE_MODE
    return info


def _entries(tasks: Sequence[ShownTask]) -> Iterator[_Entry]:
    for task, stem in zip(tasks, stems([(task.id, task.label) for task in tasks]), strict=True):
        for number, result in enumerate(task.results, 1):
            name = stem if len(task.results) == 1 else f"{stem}-{number}"
            yield _Entry(stem=name, task=task, url=result.url, stored=result.stored)


def _manifest(rows: Sequence[dict[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _MANIFEST, restval="")
    writer.writeheader()
    writer.writerows({name: _as_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _as_cell(value: object) -> object:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
