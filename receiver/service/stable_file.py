"""Waits until a file is completely written, so that a reload does not read half of it.

Editors replace a file in several steps: some truncate it first, others remove it for a moment.
"""

import asyncio
from datetime import timedelta
from pathlib import Path

from receiver.domain.clock import Clock

_RECENT_SECONDS = 1.0
_STABLE_SECONDS = 0.3
_CHECK_INTERVAL = timedelta(seconds=0.05)
_MAX_WAIT_SECONDS = 5.0

_Version = tuple[int, int, int]


async def wait_until_stable(path: Path, clock: Clock) -> None:
    """Wait while a file is missing or keeps changing, at most 5 s. An older file is not waited for."""
    began = changed_at = clock.monotonic()
    version = _version(path)
    if version is not None and abs(_age(path, clock)) > _RECENT_SECONDS:
        return
    while clock.monotonic() < began + _MAX_WAIT_SECONDS:
        await clock.wait(asyncio.Event(), until=clock.now() + _CHECK_INTERVAL)
        before, version = version, _version(path)
        if version != before:
            changed_at = clock.monotonic()
        elif version is not None and clock.monotonic() - changed_at >= _STABLE_SECONDS:
            return


def _version(path: Path) -> _Version | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _age(path: Path, clock: Clock) -> float:
    try:
        return clock.now().timestamp() - path.stat().st_mtime
    except OSError:
        return 0.0
