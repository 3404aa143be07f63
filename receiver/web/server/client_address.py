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
_IPV6_CLIENT_BITS = 64


class TrustedProxies:
    """The reverse proxies before us, whose word on who called is believed. Nobody else's is."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def contains(self, client: tuple[str, int] | None) -> bool:
        """Whether the other end of a connection is one of them."""
        return self._trusts(_parse_address(client[0])) if client else False

    def client(self, scope: Scope) -> str:
        """Name who makes a request: the last one on its way that is none of the proxies.

        Each proxy adds whom it heard from at the right of X-Forwarded-For, so all that stands left of the first
        stranger may be made up.
        """
        client = scope.get("client")
        if not self._networks:
            return peer_name(client)
        address = _parse_address(client[0]) if client else None
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
    """Name the other end of a connection."""
    return _host_name(client[0]) if client else ""


@lru_cache(maxsize=1024)  # asked anew for each request of a connection
def _host_name(host: str) -> str:
    return client_name(_parse_address(host))


def client_name(address: IPAddress | None) -> str:
    """Name whom a caller counts for; "" for one without an address, as on a Unix socket."""
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), _IPV6_CLIENT_BITS), strict=False))
    return str(address or "")


def _parse_address(text: str) -> IPAddress | None:
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


class LeakyBucket:
    """One caller's mistakes, which are forgiven one by one as time goes by."""

    __slots__ = ("_at", "_capacity", "_level", "_per_second", "is_reported")

    def __init__(self, capacity: int, per_second: float) -> None:
        self.is_reported = False
        self._capacity = capacity
        self._per_second = per_second
        self._level = 0.0
        self._at = 0.0

    def level(self, now: float) -> float:
        """Return how full the bucket is at *now*, in seconds of the monotonic clock."""
        return max(0.0, self._level - (now - self._at) * self._per_second)

    def has_capacity(self, now: float) -> bool:
        """Return whether one more fits."""
        return self.level(now) <= self._capacity - 1

    def add(self, now: float) -> None:
        """Add one."""
        self._level, self._at = self.level(now) + 1, now


class FailureLimiter:
    """How many mistakes each caller, and all of them together, may make before they cost us next to nothing.

    Moments are seconds of any clock that only rises. No more than *most* callers are remembered; while so many are
    in debt there is no patience with anybody new, which does no harm: what a caller gets right is taken all the same.
    """

    def __init__(
        self, *, burst: int = 60, per_second: float = 1.0, total_factor: int = 10, max_clients: int = 4096
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._max_clients = max_clients
        self._total = LeakyBucket(total_factor * burst, total_factor * per_second)
        self._buckets: dict[str, LeakyBucket] = {}
        self._purged_at = 0.0

    def allows(self, client: str, now: float) -> bool:
        """Whether *caller* may make one more mistake."""
        if not self._total.has_capacity(now):
            return False
        bucket = self._buckets.get(client)
        return self._has_capacity(now) if bucket is None else bucket.has_capacity(now)

    def record(self, client: str, now: float) -> bool:
        """Count a mistake that there was patience for; tell, once for each time, when no more is left."""
        bucket = self._buckets.setdefault(client, LeakyBucket(self._burst, self._per_second))
        bucket.is_reported = bucket.is_reported and bool(bucket.level(now))
        bucket.add(now)
        self._total.add(now)
        if bucket.has_capacity(now) or bucket.is_reported:
            return False
        bucket.is_reported = True
        return True

    def _has_capacity(self, now: float) -> bool:
        if len(self._buckets) >= self._max_clients and now - self._purged_at >= 1 / self._per_second:
            self._purged_at = now
            self._buckets = {caller: bucket for caller, bucket in self._buckets.items() if bucket.level(now)}
        return len(self._buckets) < self._max_clients
