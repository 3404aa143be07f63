"""Finds the client of a request behind trusted reverse proxies.

Clients are counted and logged by IPv4 address, or by IPv6 /64 network: one customer usually owns a whole /64.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from starlette.types import Scope

Network: TypeAlias = IPv4Network | IPv6Network
IPAddress: TypeAlias = IPv4Address | IPv6Address

_FORWARDED_FOR = b"x-forwarded-for"
_IPV6_CLIENT_BITS = 64


class TrustedProxies:
    """The reverse proxies whose X-Forwarded-For header is trusted."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def contains(self, client: tuple[str, int] | None) -> bool:
        """Return whether a connection's peer is a trusted proxy."""
        return self._trusts(_parse_peer(client[0])) if client else False

    def identify(self, client: tuple[str, int] | None) -> tuple[str, bool]:
        """Return the name under which a connection's peer is counted, and whether it is a trusted proxy."""
        return peer_name(client), self.contains(client)

    def client(self, scope: Scope) -> str:
        """Return the client of a request: the right-most address that is not a trusted proxy.

        Each proxy appends its peer's address to X-Forwarded-For. Everything left of the first untrusted address may
        be forged.
        """
        client = scope.get("client")
        if not self._networks:
            return peer_name(client)
        address = _parse_peer(client[0]) if client else None
        if self._trusts(address):
            for entry in reversed(_forwarded_for(scope)):
                before = _parse_address(entry)
                if before is None:
                    break
                address = before
                if not self._trusts(address):
                    break
        return client_name(address)

    def _trusts(self, address: IPAddress | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def peer_name(client: tuple[str, int] | None) -> str:
    """Return the name under which a connection's peer is counted."""
    return _host_name(client[0]) if client else ""


_cached = lru_cache(maxsize=1024)  # the functions below are called for each request of a connection


@_cached
def _host_name(host: str) -> str:
    return client_name(_parse_peer(host))


@_cached
def _parse_peer(host: str) -> IPAddress | None:
    """Parse a peer's address, which the system wrote. Header values are not cached: a client chooses them."""
    return _parse_address(host)


def client_name(address: IPAddress | None) -> str:
    """Return an address or its IPv6 /64 network; "" without an address, as on a Unix socket."""
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), _IPV6_CLIENT_BITS), strict=False))
    return str(address or "")


def _parse_address(text: str) -> IPAddress | None:
    """Parse an address as proxies write it, possibly with a port. Return None for words such as "unknown"."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded_for(scope: Scope) -> list[str]:
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == _FORWARDED_FOR]
    return ",".join(lines).split(",")
