"""What the service and systemd say to each other: ready, alive, stopping, and the sockets handed over at start.

The protocols are those of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). Started by hand, without
systemd around, all of it does nothing. What is read from the environment is taken out of it, so that no child
process believes it was meant.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping
from datetime import timedelta

from receiver.domain.errors import ConfigurationError

_FIRST_FD = 3
_SEND_TIMEOUT = 0.2


class SystemdNotifier:
    """Tells systemd how the service is. Never raises and never waits long: the service matters more than the news."""

    def __init__(self, address: str = "", *, watchdog: timedelta | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_interval = None if watchdog is None else watchdog / 2

    watchdog_interval: timedelta | None
    """How often :meth:`alive` must be called; None when nobody watches. Half of what systemd allows."""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> "SystemdNotifier":
        """Make the notifier that systemd asked for; without systemd, one that keeps silent."""
        address = environ.pop("NOTIFY_SOCKET", "")
        allowed = _parse_count(environ.pop("WATCHDOG_USEC", ""))
        watched = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(address, watchdog=timedelta(microseconds=allowed) if allowed and watched else None)

    def ready(self) -> None:
        """Say that start-up is done and callbacks are taken."""
        self._send("READY=1")

    def watchdog(self) -> None:
        """Say that the service still turns; missing for too long, systemd starts it anew."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service has begun to stop."""
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
    """Take over the listening sockets systemd opened for this process, by their ``FileDescriptorName``.

    Sockets meant for another process are left alone. Raises ConfigurationError for a descriptor that nobody
    can connect to, as of a socket unit that lists a datagram or a file.
    """
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()):
        return {}
    taken: dict[str, list[socket.socket]] = {}
    descriptors = range(_FIRST_FD, _FIRST_FD + _parse_count(count))
    for descriptor, name in zip(descriptors, _descriptor_names(names, len(descriptors)), strict=True):
        taken.setdefault(name, []).append(_listening_socket(descriptor, name))
    return taken


def _listening_socket(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the call knows no name for it
        handed = socket.socket(fileno=descriptor)
        if handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return handed
    except OSError as error:
        raise _not_listening_error(name) from error
    raise _not_listening_error(name)


def _not_listening_error(name: str) -> ConfigurationError:
    return ConfigurationError(
        [f"the socket unit handed over {name!r}, which is no listening socket: only ListenStream= is understood"]
    )


def _descriptor_names(joined: str, count: int) -> list[str]:
    """Give one name per descriptor; systemd says ``unknown`` for those without."""
    names = joined.split(":") if joined else []
    return [*names, *["unknown"] * count][:count]


def _parse_count(text: str) -> int:
    """Read a count; zero for anything that is none."""
    return int(text) if text.isascii() and text.isdigit() else 0
