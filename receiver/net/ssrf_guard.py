"""SSRF guards: which addresses may be dialled for URLs from the operator, and from untrusted clients.

An untrusted URL must never reach this machine, its networks or a cloud's metadata service. ``ipaddress.is_global`` is
not enough: it allows NAT64, 6to4 and other addresses that only look public.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TypeAlias

from receiver.domain.errors import AddressBlocked
from receiver.domain.ssrf_denylist import SSRF_DENYLIST, Network, network_table

IPAddress: TypeAlias = IPv4Address | IPv6Address

# IANA's special-purpose registries, and all of IPv6 that is not global unicast.
_NOT_PUBLIC = network_table(
    {
        "0.0.0.0/8": "unspecified",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared address space (carrier-grade NAT)",
        "127.0.0.0/8": "loopback",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "for documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::1/128": "loopback",
        "::/128": "unspecified",
        "::/96": "an IPv4-compatible address",
        "::ffff:0:0:0/96": "a translated IPv4 address",
        "64:ff9b::/96": "a NAT64 translation",
        "64:ff9b:1::/48": "a local NAT64 translation",
        "100::/63": "discard-only",
        "2001::/32": "Teredo",
        "2001::/23": "reserved",
        "2001:db8::/32": "for documentation",
        "2002::/16": "6to4",
        "3fff::/20": "for documentation",
        "fc00::/7": "private",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
        "::/3": "reserved",
        "4000::/2": "reserved",
        "8000::/1": "reserved",
    }
)
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")
_NAT64 = (ip_network("64:ff9b::/96"), _LOCAL_NAT64, ip_network("::ffff:0:0:0/96"), ip_network("::/96"))
# RFC 6052: bytes of the IPv4 address after a prefix of 48, 56 or 64 bits; after 96 bits it is the last four.
_EMBEDDED_BYTES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12))
_UNSPECIFIED = ip_network("0.0.0.0/8")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_V4_BITS = 0xFFFF_FFFF


class OperatorGuard:
    """For URLs from the configuration: local addresses are allowed, link-local and metadata addresses never."""

    def check(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raise AddressBlocked if one of *addresses* is never dialled."""
        for address in addresses:
            _refuse_forbidden(host, address)


class PublicGuard:
    """For untrusted URLs: only public addresses, and the networks in *allow*."""

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self._allow = tuple(allow)

    def check(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raise AddressBlocked unless every one of *addresses* is public or allowed."""
        for address in addresses:
            _refuse_forbidden(host, address)
            for reached in _reachable_as(address):
                if (what := _match(_NOT_PUBLIC, reached)) and not any(
                    _is_within(reached, network) for network in self._allow
                ):
                    raise AddressBlocked(
                        f"{_describe(host, address, reached)} is not public: {what}.",
                        remedy=f'If it should be reachable, add "{reached}" or its network to [network] allow.',
                    )


def _refuse_forbidden(host: str, address: IPAddress) -> None:
    for reached in _reachable_as(address):
        if what := _match(SSRF_DENYLIST, reached):
            raise AddressBlocked(
                f"{_describe(host, address, reached)} is never dialled: {what}.",
                remedy="No setting allows it. Use another host.",
            )


def _reachable_as(address: IPAddress) -> Iterator[IPAddress]:
    """Yield every address that *address* may lead to: itself, and any IPv4 address embedded in it.

    An IPv4-mapped address is only its IPv4 address. A translated or tunnelled one counts as both ends.
    """
    if isinstance(address, IPv4Address):
        yield address
    elif mapped := address.ipv4_mapped:
        yield mapped
    else:
        yield IPv6Address(int(address))  # without its zone ID
        yield from _embedded(address)


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    last = int(address) & _V4_BITS
    if any(address in network for network in _NAT64) and last > 1:
        yield IPv4Address(last)
    if address in _LOCAL_NAT64:
        yield from _embedded_behind_prefix(address)
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if (int(address) >> 32) & _V4_BITS in _ISATAP:
        yield IPv4Address(last)


def _embedded_behind_prefix(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses a local NAT64 may read from *address*: only its network knows the prefix length."""
    for positions in _EMBEDDED_BYTES:
        embedded = IPv4Address(bytes(address.packed[position] for position in positions))
        if embedded not in _UNSPECIFIED:  # otherwise these are the zeros of a longer prefix
            yield embedded


def _match(table: Sequence[tuple[Network, str]], address: IPAddress) -> str:
    return next((what for network, what in table if _is_within(address, network)), "")


def _is_within(address: IPAddress, network: Network) -> bool:
    return address.version == network.version and address in network


def _describe(host: str, address: IPAddress, reached: IPAddress) -> str:
    """Return the refused chain: the host as written, what it resolved to, and the address embedded in that."""
    chain = dict.fromkeys([host, str(address), str(reached)])
    return " → ".join(chain)
