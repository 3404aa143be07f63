"""Free ports for servers under test."""

import contextlib
import socket
from random import SystemRandom

_NON_EPHEMERAL_PORTS = 10_000, 32_000
_random = SystemRandom()


def free_port() -> int:
    """Return a free loopback port.

    It is outside the ephemeral range, so that no outgoing connection can take it before a server starts there.
    """
    while True:
        port = _random.randrange(*_NON_EPHEMERAL_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
