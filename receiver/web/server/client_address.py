"""Who calls, through whichever proxies we trust, and how much of a caller's noise we listen to.

What is counted and written down about a caller is one IPv4 address, or one customer's worth of IPv6: whoever has
one address of a /64 has them all.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from starlette.types import Scope

Network: TypeAlias = IPv4Network | IPv6Network
IPAddress: TypeAlias = IPv4Address | IPv6Address

_FORWARDED_FOR = b"x-forwarded-for"
_IPV6_CUSTOMER_BITS = 64


class Proxies:
    """The reverse proxies before us, whose word on who called is believed. Nobody else's is."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def include(self, client: tuple[str, int] | None) -> bool:
        """Whether the other end of a connection is one of them."""
        return self._trusts(_read(client[0])) if client else False

    def caller(self, scope: Scope) -> str:
        """Name who makes a request: the last one on its way that is none of the proxies.

        Each proxy adds whom it heard from at the right of X-Forwarded-For, so all that stands left of the first
        stranger may be made up.
        """
        client = scope.get("client")
        if not self._networks:
            return peer(client)
        address = _read(client[0]) if client else None
        if self._trusts(address):
            for entry in reversed(_forwarded_for(scope)):
                before = _read(entry)
                if before is None:
                    break
                address = before
                if not self._trusts(address):
                    break
        return named(address)

    def _trusts(self, address: IPAddress | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def peer(client: tuple[str, int] | None) -> str:
    """Name the other end of a connection."""
    return _name(client[0]) if client else ""


@lru_cache(maxsize=1024)  # asked anew for each request of a connection
def _name(host: str) -> str:
    return named(_read(host))


def named(address: IPAddress | None) -> str:
    """Name whom a caller counts for; "" for one without an address, as on a Unix socket."""
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), _IPV6_CUSTOMER_BITS), strict=False))
    return str(address or "")


def _read(text: str) -> IPAddress | None:
    """Read an address as proxies write them, some with a port; None for words such as "unknown"."""
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


class _Bucket:
    """One caller's mistakes, which are forgiven one by one as time goes by."""

    __slots__ = ("_at", "_owed", "_per_second", "_size", "is_told")

    def __init__(self, size: int, per_second: float) -> None:
        self.is_told = False
        self._size = size
        self._per_second = per_second
        self._owed = 0.0
        self._at = 0.0

    def owed(self, now: float) -> float:
        return max(0.0, self._owed - (now - self._at) * self._per_second)

    def has_room(self, now: float) -> bool:
        return self.owed(now) <= self._size - 1

    def add(self, now: float) -> None:
        self._owed, self._at = self.owed(now) + 1, now


class Patience:
    """How many mistakes each caller, and all of them together, may make before they cost us next to nothing.

    Moments are seconds of any clock that only rises. No more than *most* callers are remembered; while so many are
    in debt there is no patience with anybody new, which does no harm: what a caller gets right is taken all the same.
    """

    def __init__(self, *, burst: int = 60, per_second: float = 1.0, together: int = 10, most: int = 4096) -> None:
        self._burst = burst
        self._per_second = per_second
        self._most = most
        self._everybody = _Bucket(together * burst, together * per_second)
        self._buckets: dict[str, _Bucket] = {}
        self._cleared_at = 0.0

    def is_left(self, caller: str, now: float) -> bool:
        """Whether *caller* may make one more mistake."""
        if not self._everybody.has_room(now):
            return False
        bucket = self._buckets.get(caller)
        return self._may_remember_another(now) if bucket is None else bucket.has_room(now)

    def wear(self, caller: str, now: float) -> bool:
        """Count a mistake that there was patience for; tell, once for each time, when no more is left."""
        bucket = self._buckets.setdefault(caller, _Bucket(self._burst, self._per_second))
        bucket.is_told = bucket.is_told and bool(bucket.owed(now))
        bucket.add(now)
        self._everybody.add(now)
        if bucket.has_room(now) or bucket.is_told:
            return False
        bucket.is_told = True
        return True

    def _may_remember_another(self, now: float) -> bool:
        if len(self._buckets) >= self._most and now - self._cleared_at >= 1 / self._per_second:
            self._cleared_at = now
            self._buckets = {caller: bucket for caller, bucket in self._buckets.items() if bucket.owed(now)}
        return len(self._buckets) < self._most
