"""Reports a long start: systemd gets notice that it needs more time, and the log says what the start does.

Migrating a store of millions of events takes longer than systemd's limit on a start.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from receiver.service.systemd import SystemdNotifier
from receiver.store.sqlite.migrate import Report

log = structlog.get_logger()

MAX_EXTENSION = timedelta(hours=2)
"""After this, systemd's own limit applies again: the start hangs."""

_INTERVAL = timedelta(seconds=5)
_EXTENSION = timedelta(seconds=60)


@asynccontextmanager
async def report_progress(systemd: SystemdNotifier) -> AsyncIterator[Report]:
    """Ask systemd for more time during the block. Yield a function that logs a step; threads may call it."""
    loop = asyncio.get_running_loop()
    began = time.monotonic()

    def log_step(event: str, values: Mapping[str, object]) -> None:
        log.info(event, seconds=round(time.monotonic() - began, 1), **values)
        systemd.status(" ".join([event.replace("store.", "The store: "), *map(str, values.values())]))

    def report(event: str, values: Mapping[str, object]) -> None:
        loop.call_soon_threadsafe(log_step, event, values)

    extending = asyncio.create_task(_extend_start(systemd))
    try:
        yield report
    finally:
        extending.cancel()
        await asyncio.gather(extending, return_exceptions=True)


async def _extend_start(systemd: SystemdNotifier) -> None:
    for _ in range(MAX_EXTENSION // _INTERVAL):
        systemd.extend_start(_EXTENSION)
        await asyncio.sleep(_INTERVAL.total_seconds())
