"""Checks that results can be written to the archive folder.

It writes a file, because permissions, mounts and quotas decide together, and only a write shows all of them.
"""

import asyncio
import errno
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from receiver.archive.partial_file import FOLDER_MODE
from receiver.domain.daemon_thread import run_in_daemon_thread
from receiver.store.disk import is_disk_full, make_folder

_TIMEOUT_SECONDS = 2.0
_RIGHTS = "Give the service's user the right to write there"
_REMEDIES: Mapping[int | None, str] = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "Mount it writable, or name it in ReadWritePaths= of the systemd unit",
    errno.ENOTDIR: "Remove the file that is in the place of a folder",
    errno.EEXIST: "Remove what is in the place of a folder",
}


def writing_problem(folder: Path) -> str:
    """Return why no file can be written to *folder*, and what to do; empty if it works. Creates the folder."""
    try:
        make_folder(folder, mode=FOLDER_MODE)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"x")
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename and Path(exc.filename).parent != folder else ""
        remedy = "Make room" if is_disk_full(exc) else _REMEDIES.get(exc.errno, "Check the disk")
        return (
            f"Results cannot be written to {folder}: {exc.strerror}{where}. "
            f"{remedy}, or set [archive] dir to another folder."
        )
    return ""


class FolderCheck:
    """Checks the archive folder again and again. Requests at the same time share one check, also one that hangs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: asyncio.Task[str] | None = None

    async def problem(self) -> str:
        """Return why no result can be written; empty if it works."""
        if self._running is None or self._running.done():
            check = partial(writing_problem, self._folder)
            self._running = asyncio.create_task(run_in_daemon_thread(check, name="archive-folder"))
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await asyncio.shield(self._running)
        except TimeoutError:
            return f"The disk of {self._folder} does not respond. Check it, or set [archive] dir to another folder."
