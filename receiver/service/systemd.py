"""The systemd protocols: notifications (ready, watchdog, stopping, status) and socket activation.

They are described in sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). Without systemd they do nothing.
The variables are removed from the environment when they are read, so that child processes do not use them.
"""

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from datetime import timedelta

from receiver.domain.errors import ConfigurationError

_FIRST_FD = 3
_SEND_TIMEOUT = 0.2


class SystemdNotifier:
    """Sends the service's state to systemd. It never raises and waits at most 0.2 s, so it cannot delay the service."""

    def __init__(self, address: str = "", *, watchdog: timedelta | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_interval = None if watchdog is None else watchdog / 2

    watchdog_interval: timedelta | None
    """How often :meth:`watchdog` must be called: half of systemd's timeout. None without a watchdog."""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> "SystemdNotifier":
        """Create the notifier from systemd's variables; without systemd it sends nothing."""
        address = environ.pop("NOTIFY_SOCKET", "")
        allowed = _parse_count(environ.pop("WATCHDOG_USEC", ""))
        watched = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, watchdog=timedelta(microseconds=allowed) if allowed and watched else None)

    def ready(self) -> None:
        """Report that the start is complete and callbacks are accepted."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the configuration is being read again, until :meth:`ready`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def extend_start(self, by: timedelta) -> None:
        """Ask for more time to start: *by* from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={by // timedelta(microseconds=1)}")

    def watchdog(self) -> None:
        """Report that the service is alive; systemd restarts it if this is missing for too long."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show a sentence in ``systemctl status``."""
        self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):  # ValueError: a NUL inside the address
            return


def listen_fds(environ: MutableMapping[str, str] = os.environ) -> Mapping[str, list[socket.socket]]:
    """Return the listening sockets that systemd opened for this process, by their ``FileDescriptorName``.

    Sockets for another process are ignored. Raises ConfigurationError for a descriptor that is not a listening
    socket, such as a datagram socket or a file.
    """
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()):
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    descriptors = range(_FIRST_FD, _FIRST_FD + _parse_count(count))
    for descriptor, name in zip(descriptors, _descriptor_names(names, len(descriptors)), strict=True):
        sockets.setdefault(name, []).append(_listening_socket(descriptor, name))
    return sockets


def _listening_socket(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - a positional-only parameter
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        raise _not_listening_error(name) from error
    if not _is_listening(inherited):
        inherited.detach()  # not a socket of ours, so we must not close it
        raise _not_listening_error(name)
    return inherited


def _is_listening(inherited: socket.socket) -> bool:
    try:
        return bool(inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _not_listening_error(name: str) -> ConfigurationError:
    return ConfigurationError(
        [f"the socket unit passed {name!r}, which is not a listening socket; use only ListenStream= in the unit"]
    )


def _descriptor_names(joined: str, count: int) -> list[str]:
    """Return one name per descriptor; a descriptor without a name is ``unknown``, as in systemd."""
    names = joined.split(":") if joined else []
    return [*names, *["unknown"] * count][:count]


def _parse_count(text: str) -> int:
    """Parse a count; return 0 if it is not a number."""
    return int(text) if text.isascii() and text.isdigit() else 0
