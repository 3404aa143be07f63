"""The files that this process has open."""

import contextlib
from collections.abc import Sequence
from pathlib import Path


def open_paths() -> Sequence[Path]:
    """Return what each open descriptor leads to. Other threads may close one meanwhile: it is left out."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(link.readlink())
    return found
