"""Thumbnails of archived pictures, for the console. They need the extra ``previews``.

A thumbnail is made once, after its picture was archived, and again on request if it is missing. Events never wait for
it. One process at a time decodes one picture, see ``preview_worker``. The thumbnails are a cache: they lie beside the
results in ``.previews``, and retention removes them.
"""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeAlias

import structlog

from receiver.archive.file_thread import in_thread
from receiver.archive.partial_file import MIN_FREE_BYTES
from receiver.archive.reader import ArchiveReader, open_beneath
from receiver.domain.errors import FileNotStored, NotFound
from receiver.store.disk import free_bytes, make_folder, open_with_mode
from receiver.store.interfaces import StoredResult

log = structlog.get_logger()

MAX_PICTURE_BYTES = 64 * 1024 * 1024
"""The largest picture that gets a thumbnail."""

FOLDER = ".previews"

_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_MAX_QUEUED = 1000
_MAX_THUMBNAIL = 512 * 1024
_PROCESS_SECONDS = 60  # on a busy machine; the worker may use 10 s of CPU time
_WAIT_SECONDS = 10
_WORKER = str(Path(__file__).with_name("preview_worker.py"))
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750
_HEAD = b"RIFF"
_IMPOSSIBLE = b"none"
"""Kept in place of a thumbnail if there can be none, so that a broken picture is decoded once."""

_Job: TypeAlias = "asyncio.Future[bytes | None]"


class Previews:
    """Makes thumbnails, one at a time, and keeps them in *folder*."""

    def __init__(self, folder: Path, reader: ArchiveReader) -> None:
        self.reader = reader
        self.is_installed = importlib.util.find_spec("PIL") is not None
        self._folder = folder
        self._queue: OrderedDict[StoredResult, _Job] = OrderedDict()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()

    def can_show(self, content_type: str, size: int) -> bool:
        """Return whether a file of this type and size gets a thumbnail."""
        return self.is_installed and content_type in _TYPES and size <= MAX_PICTURE_BYTES

    def request(self, result: StoredResult) -> None:
        """Have a thumbnail made soon. If too many wait, it is made when the console shows it."""
        if self.can_show(result.asset.content_type, result.asset.size) and len(self._queue) < _MAX_QUEUED:
            self._enqueue(result)

    async def get(self, result: StoredResult) -> bytes | None:
        """Return the thumbnail of a result as WebP. Return None if there is none, or not within ten seconds."""
        if not self.can_show(result.asset.content_type, result.asset.size):
            return None
        content = await in_thread(self._load, result)
        if content is None and len(self._queue) < _MAX_QUEUED:
            job = self._enqueue(result)
            self._queue.move_to_end(result, last=False)  # the console waits for it
            await asyncio.wait([job], timeout=_WAIT_SECONDS)
            content = job.result() if job.done() and not job.cancelled() else None
        return content if content is not None and content.startswith(_HEAD) else None

    async def run(self, stop: asyncio.Event) -> None:
        """Make the requested thumbnails until *stop*."""
        stopping = asyncio.ensure_future(stop.wait())
        making = asyncio.ensure_future(self._make_all())
        try:
            await asyncio.wait([stopping, making], return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                making.result()  # raises its error
        finally:
            for task in (stopping, making):
                task.cancel()
            await asyncio.gather(stopping, making, return_exceptions=True)
            for job in self._queue.values():
                job.cancel()
            self._queue.clear()

    async def sweep(self, *, before: datetime) -> int:
        """Remove the thumbnails of tasks whose last one was made before a time. Return the number of tasks."""
        return await in_thread(self._sweep, before.timestamp())

    async def remove(self, task_id: str) -> None:
        """Remove the thumbnails of a task."""
        for result in [each for each in self._queue if each.task_id == task_id]:
            self._queue.pop(result).cancel()
        async with self._writing:
            await in_thread(shutil.rmtree, self._folder / task_id, ignore_errors=True)

    def _enqueue(self, result: StoredResult) -> _Job:
        if result not in self._queue:
            self._queue[result] = asyncio.get_running_loop().create_future()
            self._wake.set()
        return self._queue[result]

    async def _make_all(self) -> None:
        while True:
            self._wake.clear()
            while self._queue:
                result, job = next(iter(self._queue.items()))
                content = await self._make(result)
                self._queue.pop(result, None)
                if not job.done():
                    job.set_result(content)
            await self._wake.wait()

    async def _make(self, result: StoredResult) -> bytes | None:
        """Make and keep a thumbnail. Return None if a later try may succeed."""
        try:
            if (kept := await in_thread(self._load, result)) is not None:
                return kept
            thumbnail = await self._decode(result)
            async with self._writing:
                if result not in self._queue:  # its task was deleted meanwhile
                    return None
                await in_thread(self._keep, result, thumbnail or _IMPOSSIBLE)
        except (NotFound, FileNotStored, OSError) as exc:
            log.warning("preview.failed", task=result.task_id, number=result.asset.number, reason=str(exc))
            return None
        if thumbnail is None:
            log.info("preview.impossible", task=result.task_id, number=result.asset.number)
        return thumbnail or _IMPOSSIBLE

    async def _decode(self, result: StoredResult) -> bytes | None:
        with tempfile.TemporaryFile() as picture:
            async with self.reader.open(result) as file:
                for start in range(0, result.asset.size, file.chunk_size):
                    content = await file.read(start, min(start + file.chunk_size, result.asset.size))
                    await in_thread(picture.write, content)
            picture.seek(0)
            return await _run_worker(picture)

    def _place(self, result: StoredResult) -> tuple[str, str]:
        return result.task_id, f"{result.event_id}-{result.asset.number}.webp"

    def _load(self, result: StoredResult) -> bytes | None:
        """Return the kept thumbnail, or None. A file that a power cut left empty does not count."""
        try:
            with os.fdopen(open_beneath(self._folder, self._place(result)), "rb") as file:
                content = file.read(_MAX_THUMBNAIL)
        except OSError:
            return None
        return content if content.startswith(_HEAD) or content == _IMPOSSIBLE else None

    def _keep(self, result: StoredResult, content: bytes) -> None:
        task_id, name = self._place(result)
        folder = self._folder / task_id
        make_folder(folder, mode=_FOLDER_MODE)
        if free_bytes(folder) < MIN_FREE_BYTES:
            raise FileNotStored("The disk is almost full.", remedy="Free space under [archive] dir.")
        draft = folder / f".{name}.new"
        draft.unlink(missing_ok=True)
        with open_with_mode(draft, _FILE_MODE) as file:
            file.write(content)
        draft.replace(folder / name)

    def _sweep(self, before: float) -> int:
        try:
            with os.scandir(self._folder) as entries:
                old = [entry.path for entry in entries if entry.stat(follow_symlinks=False).st_mtime < before]
        except OSError:  # there are none, or the archive's folder cannot be used, which the archiver reports
            return 0
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)


async def _run_worker(picture: BinaryIO) -> bytes | None:
    """Return the thumbnail of a picture, or None if the worker cannot make one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-B", _WORKER),
        stdin=picture,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        async with asyncio.timeout(_PROCESS_SECONDS):
            thumbnail = await _read_output(process)
            code = await process.wait()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return thumbnail if code == 0 and thumbnail.startswith(_HEAD) else None


async def _read_output(process: asyncio.subprocess.Process) -> bytes:
    """Return the output of the worker; empty if it is longer than any thumbnail."""
    output = bytearray()
    while process.stdout is not None and (content := await process.stdout.read(_MAX_THUMBNAIL)):
        output += content
        if len(output) > _MAX_THUMBNAIL:
            process.kill()
            return b""
    return bytes(output)
