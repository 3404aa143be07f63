"""Where a start waits that finds the disk full: what comes is refused, not ignored, and the start goes on by itself.

No store can be opened without some room: its index of the log is a file of its own, and so is the log.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import structlog
from starlette.types import Receive, Scope, Send

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.service.supervisor import stop_signals
from receiver.service.systemd import SystemdNotifier
from receiver.settings import Address
from receiver.web import serializers
from receiver.web.server import problems
from receiver.web.server.listener import Listener, bind_sockets

log = structlog.get_logger()

MIN_START_BYTES = 8 * 1024 * 1024
"""Bytes that opening a store may take: what was under way at a crash is written anew."""

_CHECK_INTERVAL = timedelta(seconds=1)
_KIB = 1024


class StartupGate:
    """Holds the addresses while there is no service to serve them.

    ``sockets`` are those that were handed over and, once there was a wait, all that the service is to listen on.
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
        """Tell whether a start that failed did so for want of room."""
        return _free_bytes(self._folder) < MIN_START_BYTES

    async def wait(self) -> bool:
        """Refuse what comes until there is room; False when told to stop before that. Raises CannotListen."""
        asked_to_stop, done = stop_signals(), asyncio.Event()
        refusal = self._disk_full_error()
        log.error("service.waiting_for_disk", reason=refusal.message, remedy=refusal.remedy)
        self._systemd.status(str(refusal))
        for name, address in self._addresses.items():
            if not self.sockets.get(name):
                self.sockets[name] = bind_sockets(address, f"[{name}] listen")
        async with asyncio.TaskGroup() as listening:
            for name in self._addresses:
                listening.create_task(self._listener(name).serve(done))
            while self.is_disk_full() and not asked_to_stop.is_set():
                await self._clock.wait(asked_to_stop, until=self._clock.now() + _CHECK_INTERVAL)
            done.set()
        if not asked_to_stop.is_set():
            self._systemd.status("There is room again.")
            log.info("service.disk_recovered", free=_free_bytes(self._folder))
        return not asked_to_stop.is_set()

    def _listener(self, name: str) -> Listener:
        """Make one that leaves the sockets open when it stops: nobody who comes in between is turned away."""
        return Listener(_reject, key=f"[{name}] listen", sockets=[each.dup() for each in self.sockets[name]])

    def _disk_full_error(self) -> StoreUnavailable:
        free = _free_bytes(self._folder)
        return StoreUnavailable(
            f"The disk is full: {self._folder} has {free // _KIB} KiB left, "
            f"and to start takes {(MIN_START_BYTES - free) // _KIB} KiB more.",
            remedy="Make room: until then callbacks are answered 503, and the start goes on by itself.",
        )


async def _reject(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer whoever comes, on either listener."""
    match scope["path"]:
        case "/healthz":
            response = serializers.json_response({"ok": True})
        case "/readyz":
            check = {"name": "store", "ok": False, "reason": "The disk is full; the log says where."}
            response = serializers.json_response({"ready": False, "checks": [check]}, HTTPStatus.SERVICE_UNAVAILABLE)
        case _:
            response = problems.from_error(StoreUnavailable("The disk is full.")).response()
    await response(scope, receive, send)


def _free_bytes(folder: Path) -> int:
    """Tell how much room there is for us in a folder, or in the one it is to be made in."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
