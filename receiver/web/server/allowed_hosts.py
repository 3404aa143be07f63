"""By which names a listener is asked for.

The name matters because a web page may point a name of its own at an address of ours, and have its reader's
browser ask there; such a request carries the page's name, not ours.
"""

from collections.abc import Collection
from http import HTTPStatus
from ipaddress import ip_address

from receiver.settings import Address
from receiver.web.server.problems import Problem

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class AllowedHosts:
    """The names of one listener: where it listens, this machine's own, and *more*."""

    def __init__(self, listen: Address, extra: Collection[str] = ()) -> None:
        self._names = _LOOPBACK | {listen.host.lower()} | {_ascii(name) for name in extra}
        self._any_address = listen.host in ("0.0.0.0", "::")  # noqa: S104 -- compared, not bound

    def allows(self, host: str) -> bool:
        """Whether *host*, as the header has it, is one of them; its port is not looked at."""
        name = _without_port(host).rstrip(".").lower()
        return name in self._names or name.endswith(".localhost") or (self._any_address and _is_address(name))


def misdirected(detail: str = "This is not the host you asked for.") -> Problem:
    """Say that a request was meant for somebody else."""
    return Problem(HTTPStatus.MISDIRECTED_REQUEST, "misdirected", detail)


def _ascii(name: str) -> str:
    """Write a name as the header will have it."""
    try:
        return name.rstrip(".").encode("idna").decode().lower()
    except UnicodeError:
        return name.lower()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
