"""How much room a store's disk has left, and how much of it is kept to finish in."""

import os
from collections.abc import Callable
from pathlib import Path

RESERVE = 64 * 1024 * 1024
_MIB = 1024 * 1024


def free_bytes(folder: Path) -> int:
    """Tell how much room the disk under *folder* has for us."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


class DiskSpace:
    """The room for a store in *folder*: below *reserve* bytes nothing new is taken."""

    def __init__(self, folder: Path, *, reserve: int = RESERVE, free: Callable[[Path], int] = free_bytes) -> None:
        self.folder = folder
        self.reserve = reserve
        self._free = free

    def free(self) -> int:
        """Tell how many bytes are left."""
        return self._free(self.folder)

    def has_space(self) -> bool:
        """Tell whether there is enough left to take something new."""
        return self.free() >= self.reserve

    def shortage(self) -> str:
        """Say why nothing new is taken, and what to do; nothing where there is enough."""
        free = self.free()
        if free >= self.reserve:
            return ""
        return (
            f"The store's disk is almost full: {free // _MIB} MiB are left, and nothing new is taken below "
            f"{self.reserve // _MIB} MiB. Make room: it goes on by itself."
        )
