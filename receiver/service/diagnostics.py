"""What the running process knows about itself, for `kling-receiver doctor`."""

import asyncio
import os
import platform
import resource
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import httptools

from receiver import __version__
from receiver.domain.api_schema.resources import Diagnostics
from receiver.domain.clock import iso
from receiver.service.extras import installed_extras
from receiver.service.tracing import collector
from receiver.store.sqlite.examination import sqlite_version
from receiver.web.resources.health import ReadinessCheck


def diagnosis(check_readiness: ReadinessCheck, *, started_at: datetime) -> Callable[[], Awaitable[Diagnostics]]:
    """Return a function that describes this process and its readiness."""

    async def diagnose() -> Diagnostics:
        return Diagnostics(
            version=__version__,
            python=platform.python_version(),
            sqlite=sqlite_version(),
            event_loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
            http_parser=httptools.__name__,
            open_files=_open_files(),
            open_files_limit=soft_limit(resource.RLIMIT_NOFILE),
            processes_limit=soft_limit(resource.RLIMIT_NPROC),
            extras=installed_extras(),
            traces_to=collector(os.environ),
            started_at=iso(started_at),
            checks=await check_readiness(),
        )

    return diagnose


def soft_limit(kind: int) -> int | None:
    """Return a resource limit of this process; None if there is no limit."""
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
