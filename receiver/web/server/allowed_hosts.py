"""Checks the Host header against the names a listener may be called by.

This stops DNS rebinding: a web page can point its own name at our address and let a visitor's browser send requests.
Such a request carries the page's host name, not ours.
"""

from collections.abc import Collection
from http import HTTPStatus
from ipaddress import ip_address

from receiver.settings import Address
from receiver.web.server.problems import Problem

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class AllowedHosts:
    """The allowed host names of one listener: its address, this machine's loopback names, and *extra*.

    A listener on all addresses is reached by names that it cannot know. With *any_if_open* it allows every name unless
    *extra* lists some; every address is always allowed.
    """

    def __init__(self, listen: Address, extra: Collection[str] = (), *, any_if_open: bool = False) -> None:
        self._names = _LOOPBACK | {listen.host.lower()} | {_ascii(name) for name in extra}
        self._any_address = listen.host in ("0.0.0.0", "::")  # noqa: S104 -- compared, not bound
        self._any_name = any_if_open and self._any_address and not extra

    def allows(self, host: str) -> bool:
        """Return whether a Host header's value is allowed. Its port is ignored."""
        name = without_port(host).rstrip(".").lower()
        if name in self._names or name.endswith(".localhost"):
            return True
        return (self._any_name and bool(name)) or (self._any_address and _is_address(name))


def is_loopback(host: str) -> bool:
    """Return whether an address belongs to this machine alone. A name does not count, except ``localhost``."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def misdirected(detail: str = "This service does not serve the requested host.") -> Problem:
    """Return the problem (421) of a request for another host."""
    return Problem(HTTPStatus.MISDIRECTED_REQUEST, "misdirected", detail)


def _ascii(name: str) -> str:
    """Encode a name as the Host header has it."""
    bare = name.rstrip(".")
    try:
        return (bare if bare.isascii() else bare.encode("idna").decode()).lower()
    except UnicodeError:
        return name.lower()


def without_port(host: str) -> str:
    """Return the name in a Host header's value, without brackets and port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
