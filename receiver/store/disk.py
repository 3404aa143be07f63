"""Files on a disk: the space left, the reserve that a store keeps, permissions, and names that survive a power cut."""

import errno
import os
import re
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

RESERVE = 64 * 1024 * 1024
"""Bytes that stay free for finishing work in progress."""

_MIB = 1024 * 1024
_ESCAPED = re.compile(r"\\([0-7]{3})")  # a space in a path
_PROBE_BLOCK = 64 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this account may still use on the disk of *folder*."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system of *folder*, such as ``ext4`` or ``nfs4``; empty if it is unknown.

    *mounts* has the form of proc(5): fields, a dash, then the type. A later mount hides an earlier one.
    """
    found, longest = "", -1
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        if folder.is_relative_to(point) and len(point) >= longest:
            found, longest = rest.split(" ")[0], len(point)
    return found


class DiskSpace:
    """The free space for a store in *folder*: below *reserve* bytes the store accepts nothing new.

    *refuses_writes* says whether the last write found no space: free bytes do not show a used-up quota.
    """

    def __init__(
        self,
        folder: Path,
        *,
        reserve: int = RESERVE,
        free: Callable[[Path], int] = free_bytes,
        refuses_writes: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self.reserve = reserve
        self._free = free
        self._refuses_writes = refuses_writes

    def free(self) -> int:
        """Return the number of free bytes."""
        return self._free(self.folder)

    def has_space(self) -> bool:
        """Return whether there is enough space to accept something new."""
        return self.free() >= self.reserve

    def shortage(self) -> str:
        """Return why nothing new is accepted and what to do; empty if there is enough space."""
        free = self.free()
        if free >= self.reserve and self._refuses_writes():
            return (
                "The store's disk refuses writes: a quota or a limit on the size of files is used up. "
                "Raise it or make room: the service resumes by itself."
            )
        if free >= self.reserve:
            return ""
        return (
            f"The store's disk is almost full: {free // _MIB} MiB are left, and nothing new is accepted below "
            f"{self.reserve // _MIB} MiB. Make room: the service resumes by itself."
        )


def is_disk_full(exc: OSError) -> bool:
    """Return whether a write failed for want of space: the disk is full, or a quota or size limit is used up."""
    return exc.errno in _FULL


def is_space_used_up(folder: Path, *, size: int, offset: int = 0) -> bool:
    """Return whether a file in *folder* with *offset* bytes cannot get *size* bytes more.

    It writes a temporary file: a quota and a limit on the size of files are not part of the free space.
    """
    end = offset + size
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            while offset < end:
                offset += os.pwrite(probe.fileno(), bytes(min(_PROBE_BLOCK, end - offset)), offset)
    except OSError as exc:
        return is_disk_full(exc)
    return False


def real_path(path: Path) -> Path:
    """Resolve the symbolic links in a path: SQLite keeps its log beside the real file."""
    return Path(os.path.realpath(path))


def make_folder(folder: Path, *, mode: int) -> None:
    """Create a folder with exactly *mode*, also under another umask; an existing one stays as it is.

    It survives a power cut: its name is safe only after a sync of its parent folder.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent, mode=mode)
    folder.mkdir(mode=mode, exist_ok=True)
    folder.chmod(mode | folder.stat().st_mode & stat.S_ISGID)  # the parent folder may pass its group on
    sync_folder(folder.parent)


def give_to_owner_of(example: Path, path: Path) -> None:
    """Make the owner of *example* the owner of a file that root made, so that the service's account can use it.

    A symbolic link is not followed: the owner of the folder may have put it there.
    """
    owner = example.stat()
    with suppress(PermissionError):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def open_with_mode(path: Path, mode: int) -> BinaryIO:
    """Create the file at *path* with exactly *mode*, and open it for writing. Raises FileExistsError."""
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
    os.fchmod(file.fileno(), mode)
    return file


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
