"""Whether a URL's host can be reached: its name resolves, its address is allowed, it accepts connections and TLS.

No request is sent.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address

import httpx2 as httpx
import msgspec

from receiver.domain.errors import RequestNotSent
from receiver.net.dialer import AddressGuard, Dialer, IPAddress
from receiver.net.tls import default_tls

_PORTS = {"http": 80, "https": 443}


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A host that accepted a connection. ``certificate_ends_at`` is None without TLS."""

    host: str
    address: IPAddress | None
    certificate_ends_at: datetime | None


async def reach(
    url: str,
    *,
    guard: AddressGuard,
    tls: bool = True,
    make_tls: Callable[[], ssl.SSLContext] = default_tls,
) -> Reached:
    """Connect to the host of *url* and close the connection. Without *tls* there is no handshake, also for https.

    Raises AddressBlocked, RequestNotSent.
    """
    try:
        parsed = httpx.URL(url)
        host, port = parsed.raw_host.decode("ascii"), parsed.port or _PORTS[parsed.scheme]
    except (httpx.InvalidURL, KeyError, ValueError) as exc:
        raise RequestNotSent("The URL is not an http or https URL with a host.") from exc
    dialer = Dialer(guard=guard, make_tls=make_tls)
    connection = await dialer.dial(host, port, secure=tls and parsed.scheme == "https", make_protocol=_Connection)
    transport = connection.transport
    try:
        peer, session = transport.get_extra_info("peername"), transport.get_extra_info("ssl_object")
        certificate = session.getpeercert() if session else None
        return Reached(
            host=host,
            address=ip_address(peer[0].partition("%")[0]) if peer else None,
            certificate_ends_at=_ends_at(certificate["notAfter"]) if certificate else None,
        )
    finally:
        transport.close()


class _Connection(asyncio.Protocol):
    """Keeps the transport of a connection."""

    transport: asyncio.BaseTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport


def _ends_at(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
