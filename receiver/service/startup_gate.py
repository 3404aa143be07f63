"""Waits at startup while the disk is full. Requests get 503; startup continues once there is space.

Opening the store needs free space: SQLite creates the write-ahead log and its index as files.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

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

    async def wait(self) -> bool:
        """Answer 503 until there is space. Return False if stopped before. Raises BindFailed."""
        stop_requested, done = stop_signals(), asyncio.Event()
        error = self._disk_full_error()
        log.error("service.waiting_for_disk", reason=error.message, remedy=error.remedy)
        self._systemd.status(str(error))
        for name, address in self._addresses.items():
            if not self.sockets.get(name):
                self.sockets[name] = bind_sockets(address, f"[{name}] listen")
        async with asyncio.TaskGroup() as listeners:
            for name in self._addresses:
                listeners.create_task(self._listener(name).serve(done))
            while self.is_disk_full() and not stop_requested.is_set():
                await self._clock.wait(stop_requested, until=self._clock.now() + _CHECK_INTERVAL)
            done.set()
        if not stop_requested.is_set():
            self._systemd.status("The disk has space again.")
            log.info("service.disk_recovered", free=free_bytes(_existing(self._folder)))
        return not stop_requested.is_set()

    def _listener(self, name: str) -> Listener:
        """Return a listener that leaves the sockets open when it stops, so that no connection is refused meanwhile."""
        return Listener(_reject, key=f"[{name}] listen", sockets=[each.dup() for each in self.sockets[name]])

    def _disk_full_error(self) -> StoreUnavailable:
        free = free_bytes(_existing(self._folder))
        what = f"has {free // _KIB} KiB free, and starting needs {(MIN_START_BYTES - free) // _KIB} KiB more"
        if free >= MIN_START_BYTES:
            what = f"allows less than {MIN_START_BYTES // _KIB} KiB more: a quota or a limit on file sizes is used up"
        return StoreUnavailable(
            f"The disk is full: {self._folder} {what}.",
            remedy="Free some space; startup then continues. Until then callbacks are answered 503.",
        )


async def _reject(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on either listener."""
    match scope["path"]:
        case "/healthz":
            response = serializers.json_response(Liveness(ok=True))
        case "/readyz":
            check = Check(name="store", ok=False, reason="The disk is full; the log has the folder.")
            response = serializers.json_response(Readiness(ready=False, checks=[check]), HTTPStatus.SERVICE_UNAVAILABLE)
        case _:
            response = problems.from_error(StoreUnavailable("The disk is full.")).response()
    await response(scope, receive, send)


def _existing(folder: Path) -> Path:
    """Return a folder, or its nearest existing parent."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
