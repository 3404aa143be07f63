"""Open connections: resolve a host once, let the guard check every address, connect only to a checked one.

Checking the URL alone is useless: a name may resolve to any address, and to another one a moment later (DNS
rebinding). So the name is resolved exactly once, and only an address from that answer is dialled.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol, TypeAlias, TypeVar

from receiver.domain.daemon_thread import run_in_daemon_thread
from receiver.domain.errors import NetworkFault, RequestNotSent

IPAddress: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[IPAddress]]]
ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)

RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 10.0
TLS_SECONDS = 10.0
_FALLBACK_CONNECT_SECONDS = 3.0  # a dead address must leave time for the next ones
_MAX_ADDRESSES = 6


class AddressGuard(Protocol):
    """Decides which addresses may be dialled."""

    def check(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raise AddressBlocked unless every address that *host* resolved to may be dialled."""
        ...


class Dialer:
    """Opens connections, only to addresses that its guard has approved."""

    def __init__(
        self,
        *,
        guard: AddressGuard | None = None,
        resolve: Resolve | None = None,
        make_tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._guard = guard
        self._resolve = resolve or resolve_name
        self._make_tls = make_tls
        self._tls: ssl.SSLContext | None = None  # created on first use: loading the certificates is slow

    async def dial(self, host: str, port: int, *, secure: bool, make_protocol: Callable[[], ProtocolT]) -> ProtocolT:
        """Connect to *host*, with TLS if *secure*, and return the connected protocol made by *make_protocol*.

        Raises AddressBlocked if the guard refuses, RequestNotSent for every other connection failure.
        """
        addresses = await self._resolve_addresses(host)
        if self._guard is not None:
            self._guard.check(host, addresses)
        sock = await _connect(host, port, addresses[:_MAX_ADDRESSES])
        return await self._attach(sock, host, port, secure=secure, make_protocol=make_protocol)

    async def _resolve_addresses(self, host: str) -> Sequence[IPAddress]:
        if literal := literal_addresses(host):
            return literal
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await self._resolve(host)
        except TimeoutError as exc:
            raise RequestNotSent(
                f"The host name {host} was not resolved within {RESOLVE_SECONDS:g} s: check the DNS.",
                fault=NetworkFault.DNS,
            ) from exc
        except (OSError, UnicodeError) as exc:
            is_temporary = isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN
            hint = "this machine's DNS" if is_temporary else "its spelling"
            raise RequestNotSent(
                f"The host name {host} could not be resolved ({_error_text(exc)}): check {hint}.",
                fault=NetworkFault.DNS,
            ) from exc
        if not addresses:
            raise RequestNotSent(f"The host name {host} has no address: check its spelling.", fault=NetworkFault.DNS)
        return addresses

    async def _attach(
        self, sock: socket.socket, host: str, port: int, *, secure: bool, make_protocol: Callable[[], ProtocolT]
    ) -> ProtocolT:
        """Attach the protocol to the connected socket, after the TLS handshake if *secure*."""
        try:
            return await self._create_connection(sock, host, secure=secure, make_protocol=make_protocol)
        except ssl.SSLCertVerificationError as exc:
            raise RequestNotSent(
                f"The certificate of {host} is not valid: {exc.verify_message or _error_text(exc)}.",
                fault=NetworkFault.TLS,
            ) from exc
        except ssl.SSLError as exc:
            raise RequestNotSent(
                f"TLS with {host}:{port} failed ({_error_text(exc)}): check that it is an https port.",
                fault=NetworkFault.TLS,
            ) from exc
        except (OSError, ValueError) as exc:
            raise RequestNotSent(
                f"TLS with {host}:{port} failed: {_error_text(exc) or 'the peer closed the connection'}.",
                fault=NetworkFault.TLS,
            ) from exc

    async def _create_connection(
        self, sock: socket.socket, host: str, *, secure: bool, make_protocol: Callable[[], ProtocolT]
    ) -> ProtocolT:
        loop = asyncio.get_running_loop()
        try:
            if not secure:
                return (await loop.create_connection(make_protocol, sock=sock))[1]
            if self._tls is None:
                self._tls = self._make_tls()
            name = host.rstrip(".")
            return (
                await loop.create_connection(
                    make_protocol, sock=sock, ssl=self._tls, server_hostname=name, ssl_handshake_timeout=TLS_SECONDS
                )
            )[1]
        except BaseException:
            sock.close()
            raise


async def resolve_name(host: str) -> Sequence[IPAddress]:
    """Return every address of *host* from the system's resolver, in its order of preference."""

    def resolve() -> Sequence[IPAddress]:
        return _unique_addresses(socket.getaddrinfo(plain_host(host), None, type=socket.SOCK_STREAM))

    return await run_in_daemon_thread(resolve, name="resolve")


def plain_host(host: str) -> str | bytes:
    """Return a host as the system's resolver takes it. For text, Python loads its IDNA tables of 0.9 MiB first."""
    return host.encode() if host.isascii() else host


def is_literal(host: str) -> bool:
    """Whether *host* is a literal IP address, in any spelling the system accepts (``0x7f.1``, ``2130706433``)."""
    return bool(literal_addresses(host))


def literal_addresses(host: str) -> Sequence[IPAddress]:
    """Parse *host* as an address the way the system does, without DNS; empty if it is a name."""
    try:
        found = socket.getaddrinfo(plain_host(host), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return _unique_addresses(found)
    except (OSError, UnicodeError, ValueError):
        return ()


def _unique_addresses(found: Sequence[tuple[object, ...]]) -> Sequence[IPAddress]:
    return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))  # type: ignore[index]  # a sockaddr tuple


async def _connect(host: str, port: int, addresses: Sequence[IPAddress]) -> socket.socket:
    """Connect to the first of *addresses* that answers. If none does, raise the last error."""
    error = RequestNotSent(f"{host} has no address.")
    for number, address in enumerate(addresses, start=1):
        peer = f"{host}:{port}" if is_literal(host) else f"{host}:{port} ({address})"
        time_limit = CONNECT_SECONDS if number == len(addresses) else _FALLBACK_CONNECT_SECONDS
        try:
            return await _connect_to(address, port, time_limit=time_limit)
        except ConnectionRefusedError as exc:
            error = RequestNotSent(f"{peer} refused the connection: check that a server is listening there.")
            error.__cause__ = exc
        except TimeoutError as exc:
            error = RequestNotSent(
                f"{peer} did not accept the connection within {time_limit:g} s: check for a firewall in between.",
                fault=NetworkFault.TIMEOUT,
            )
            error.__cause__ = exc
        except OSError as exc:
            error = RequestNotSent(f"No connection to {peer}: {_error_text(exc)}.")
            error.__cause__ = exc
    raise error


async def _connect_to(address: IPAddress, port: int, *, time_limit: float) -> socket.socket:
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(time_limit):
            await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _error_text(exc: BaseException) -> str:
    """Return the system's message, without error numbers and file names."""
    match exc:
        case ssl.SSLError(reason=str(reason)) if reason:
            return reason.replace("_", " ").lower()
        case OSError(strerror=str(words)):
            return words
        case _:
            return str(exc)
