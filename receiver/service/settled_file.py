"""Waits until a file is completely written, so that a reload does not read half of it.

Editors replace a file in several steps: some truncate it first, others remove it for a moment.
"""

import asyncio
import time
from pathlib import Path

_RECENT_SECONDS = 1.0
_STABLE_SECONDS = 0.3
_CHECK_SECONDS = 0.05
_MAX_WAIT_SECONDS = 5.0

_Version = tuple[int, int, int]


async def wait_until_settled(path: Path) -> None:
    """Wait while a file is missing or keeps changing, at most 5 s. An older file is not waited for."""
    began = changed_at = time.monotonic()
    version = _version(path)
    if version is not None and abs(_age(path)) > _RECENT_SECONDS:
        return
    while time.monotonic() < began + _MAX_WAIT_SECONDS:
        await asyncio.sleep(_CHECK_SECONDS)
        before, version = version, _version(path)
        if version != before:
            changed_at = time.monotonic()
        elif version is not None and time.monotonic() - changed_at >= _STABLE_SECONDS:
            return


def _version(path: Path) -> _Version | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
