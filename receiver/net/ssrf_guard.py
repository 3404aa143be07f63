"""Which addresses may be dialled, by whose word: the operator's, or a stranger's.

A stranger who may name a URL must not be able to reach this machine, its network or the cloud's metadata by it.
``ipaddress.is_global`` is no help: it lets through NAT64, 6to4 and addresses that only look public.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TypeAlias

from receiver.domain.errors import AddressBlocked
from receiver.net.http_client import IPAddress

Network: TypeAlias = IPv4Network | IPv6Network


def _table(entries: dict[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(network), what) for network, what in entries.items())


# Nobody's word is enough for these: link-local, and where clouds hand out credentials to whoever asks.
_FORBIDDEN = _table(
    {
        "169.254.169.254/32": "a cloud's metadata service",
        "168.63.129.16/32": "Azure's platform address",
        "100.100.100.200/32": "Alibaba Cloud's metadata service",
        "192.0.0.192/32": "Oracle Cloud's metadata service",
        "fd00:ec2::254/128": "the metadata service of AWS",
        "fd00:ec2::23/128": "where AWS gives pods their credentials",
        "fd00:42::42/128": "the metadata service of Scaleway",
        "fd20:ce::254/128": "the metadata service of Google Cloud",
        "169.254.0.0/16": "link-local",
        "fe80::/10": "link-local",
    }
)
# The special-purpose registries of IANA, and all of IPv6 that is not global unicast.
_NOT_PUBLIC = _table(
    {
        "0.0.0.0/8": "unspecified",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "a carrier's shared space",
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
        "::/96": "an IPv4 address in an old disguise",
        "::ffff:0:0:0/96": "a translated IPv4 address",
        "64:ff9b::/96": "a NAT64 translation",
        "64:ff9b:1::/48": "a local NAT64 translation",
        "100::/63": "discarded",
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
# The bytes that RFC 6052 puts an IPv4 address into behind a prefix of 48, 56 and 64 bits; behind 96 they are the last.
_EMBEDDED_BYTES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12))
_UNSPECIFIED = ip_network("0.0.0.0/8")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_V4_BITS = 0xFFFF_FFFF


class OperatorGuard:
    """For URLs from the configuration: this machine and its networks are fine, link-local and metadata never."""

    def check(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raise DialRefused if one of *addresses* is among those that nobody may dial."""
        for address in addresses:
            _refuse_forbidden(host, address)


class PublicGuard:
    """For URLs that a stranger named: public addresses only, beyond the networks in *allow*."""

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self._allow = tuple(allow)

    def check(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raise DialRefused unless every one of *addresses* is public or allowed."""
        for address in addresses:
            _refuse_forbidden(host, address)
            for face in _reachable_as(address):
                if (what := _match(_NOT_PUBLIC, face)) and not any(
                    _is_within(face, network) for network in self._allow
                ):
                    raise AddressBlocked(
                        f"{_describe(host, address, face)} is not public but {what}.",
                        remedy=f'If it is meant to be reached, put "{face}" or its network into [network] allow.',
                    )


def _refuse_forbidden(host: str, address: IPAddress) -> None:
    for face in _reachable_as(address):
        if what := _match(_FORBIDDEN, face):
            raise AddressBlocked(
                f"{_describe(host, address, face)} is {what} and never dialled.",
                remedy="No setting allows it: name another host.",
            )


def _reachable_as(address: IPAddress) -> Iterator[IPAddress]:
    """Give every address that dialling *address* may come out at: itself, and any IPv4 address it carries.

    One mapped from IPv4 is nothing but that; a translation or a tunnel counts as both of its ends.
    """
    if isinstance(address, IPv4Address):
        yield address
    elif mapped := address.ipv4_mapped:
        yield mapped
    else:
        yield IPv6Address(int(address))  # without its zone
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
    """Give what a local translator may read out of *address*: its network alone knows the length of its prefix."""
    for places in _EMBEDDED_BYTES:
        carried = IPv4Address(bytes(address.packed[place] for place in places))
        if carried not in _UNSPECIFIED:  # else these are the zeros of a longer prefix
            yield carried


def _match(table: Sequence[tuple[Network, str]], address: IPAddress) -> str:
    return next((what for network, what in table if _is_within(address, network)), "")


def _is_within(address: IPAddress, network: Network) -> bool:
    return address.version == network.version and address in network


def _describe(host: str, address: IPAddress, reached: IPAddress) -> str:
    """Say what was refused: the host as it was written, what it resolved to, and what that carries."""
    chain = dict.fromkeys([host, str(address), str(reached)])
    return " → ".join(chain)
