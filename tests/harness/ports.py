"""Free ports for servers under test."""

import contextlib
import socket
from random import SystemRandom

_NON_EPHEMERAL_PORTS = 10_000, 32_000
_random = SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """Return a free loopback port, another one each time.

    It is outside the ephemeral range, so that no outgoing connection can take it before a server starts there.
    """
    while True:
        port = _random.randrange(*_NON_EPHEMERAL_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
