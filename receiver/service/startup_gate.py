"""Waits at startup while the store cannot be opened. Requests get 503; startup continues once it can.

Opening a SQLite store needs free space: it creates the write-ahead log and its index as files. A PostgreSQL server may
start later than this service.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from receiver.domain.api_schema.resources import Check, Liveness, Readiness
from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.service.supervisor import stop_signals
from receiver.service.systemd import SystemdNotifier
from receiver.settings import Address
from receiver.store.disk import free_bytes, is_space_used_up
from receiver.web import serializers
from receiver.web.server import problems
from receiver.web.server.listener import Listener, bind_sockets

log = structlog.get_logger()

MIN_START_BYTES = 8 * 1024 * 1024
"""Bytes that opening a store may need: it rewrites what was in flight at a crash."""

_CHECK_INTERVAL = timedelta(seconds=1)
_KIB = 1024


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """Why the store cannot be opened: ``find`` returns it until it is gone. The others are for the log and clients."""

    find: Callable[[], Awaitable[StoreUnavailable | None]]
    waiting: str
    over: str
    reason: str
    where: str


class StartupGate:
    """Answers requests until the service can start.

    ``sockets`` are those from systemd and, after a wait, all sockets for the service to listen on.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Mapping[str, Address],
        sockets: Mapping[str, Sequence[socket.socket]],
        *,
        systemd: SystemdNotifier,
        clock: Clock,
    ) -> None:
        self.sockets = dict(sockets)
        self._folder = folder
        self._addresses = addresses
        self._systemd = systemd
        self._clock = clock

    def is_disk_full(self) -> bool:
        """Return whether the disk has too little space to start."""
        folder = _existing(self._folder)
        return free_bytes(folder) < MIN_START_BYTES or is_space_used_up(folder, size=MIN_START_BYTES)

    async def wait_for_disk(self) -> bool:
        """Answer 503 until the disk has enough space. Return False if stopped before. Raises BindFailed."""
        return await self.wait(
            Obstacle(
                find=self._find_full_disk,
                waiting="service.waiting_for_disk",
                over="service.disk_recovered",
                reason="The disk is full",
                where="the log has the folder",
            )
        )

    async def _find_full_disk(self) -> StoreUnavailable | None:
        return self._disk_full_error() if self.is_disk_full() else None

    async def wait(self, obstacle: Obstacle) -> bool:
        """Answer 503 until an obstacle is gone. Return False if stopped before. Raises BindFailed."""
        error = await obstacle.find()
        if error is None:
            return True
        stop_requested, done = stop_signals(), asyncio.Event()
        log.error(obstacle.waiting, reason=error.message, remedy=error.remedy)
        self._systemd.status(str(error))
        for key, address in self._addresses.items():
            if not self.sockets.get(key):
                self.sockets[key] = bind_sockets(address, f"[{key}] listen")
        async with asyncio.TaskGroup() as listeners:
            for key in self._addresses:
                listeners.create_task(self._listener(key, obstacle).serve(done))
            while await obstacle.find() is not None and not stop_requested.is_set():
                await self._clock.wait(stop_requested, until=self._clock.now() + _CHECK_INTERVAL)
            done.set()
        if not stop_requested.is_set():
            self._systemd.status("The start continues.")
            log.info(obstacle.over)
        return not stop_requested.is_set()

    def _listener(self, key: str, obstacle: Obstacle) -> Listener:
        """Return a listener that leaves the sockets open when it stops, so that no connection is refused meanwhile."""
        reject = partial(_reject, obstacle=obstacle)
        return Listener(reject, key=f"[{key}] listen", sockets=[each.dup() for each in self.sockets[key]])

    def _disk_full_error(self) -> StoreUnavailable:
        free = free_bytes(_existing(self._folder))
        what = f"has {free // _KIB} KiB free, and starting needs {(MIN_START_BYTES - free) // _KIB} KiB more"
        if free >= MIN_START_BYTES:
            what = f"allows less than {MIN_START_BYTES // _KIB} KiB more: a quota or a limit on file sizes is used up"
        return StoreUnavailable(
            f"The disk is full: {self._folder} {what}.",
            remedy="Free some space; startup then continues. Until then callbacks are answered 503.",
        )


async def _reject(scope: Scope, receive: Receive, send: Send, *, obstacle: Obstacle) -> None:
    """Answer a request on either listener."""
    match scope["path"]:
        case "/healthz":
            response = serializers.json_response(Liveness(ok=True))
        case "/readyz":
            check = Check(name="store", ok=False, reason=f"{obstacle.reason}; {obstacle.where}.")
            response = serializers.json_response(Readiness(ready=False, checks=[check]), HTTPStatus.SERVICE_UNAVAILABLE)
        case _:
            response = problems.from_error(StoreUnavailable(f"{obstacle.reason}.")).response()
    await response(scope, receive, send)


def _existing(folder: Path) -> Path:
    """Return a folder, or its nearest existing parent."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
