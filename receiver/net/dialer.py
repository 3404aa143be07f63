"""From a host's name to an open connection: resolve once, let a guard see every address, dial only what it saw.

A check of the URL alone is worth nothing: a name may lead to any address, and to another one a moment
later. So the name is resolved here, once, and what is dialled is an address of that one answer.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol, TypeAlias, TypeVar

from receiver.domain.errors import RequestNotSent

IPAddress: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[IPAddress]]]
ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)

RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 10.0
TLS_SECONDS = 10.0
_FALLBACK_CONNECT_SECONDS = 3.0  # a dead address must not use up the time of the ones behind it
_MAX_ADDRESSES = 6


class AddressGuard(Protocol):
    """Says which addresses may be dialled for whoever named the host."""

    def check(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raise DialRefused unless every one of *addresses*, all that *host* resolved to, may be dialled."""
        ...


class Dialer:
    """Opens connections to addresses that its guard has seen; nothing else ever gets a packet."""

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
        self._tls: ssl.SSLContext | None = None  # made when first wanted: loading the certificates takes a while

    async def dial(self, host: str, port: int, *, secure: bool, make_protocol: Callable[[], ProtocolT]) -> ProtocolT:
        """Connect to *host*, with TLS if *secure*, and give the connected protocol made by *wire*.

        Raises DialRefused when the guard says no, NotSent for everything that keeps a connection from standing.
        """
        addresses = await self._resolve_addresses(host)
        if self._guard is not None:
            self._guard.check(host, addresses)
        sock = await _connect(host, port, addresses[:_MAX_ADDRESSES])
        return await self._attach(sock, host, port, secure=secure, make_protocol=make_protocol)

    async def _resolve_addresses(self, host: str) -> Sequence[IPAddress]:
        if literal := _literal_addresses(host):
            return literal
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await self._resolve(host)
        except TimeoutError as exc:
            raise RequestNotSent(
                f"The name {host} was not resolved within {RESOLVE_SECONDS:g} s: check the DNS."
            ) from exc
        except (OSError, UnicodeError) as exc:
            later = isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN
            what = "this machine's DNS" if later else "its spelling"
            raise RequestNotSent(f"The name {host} could not be resolved ({_error_text(exc)}): check {what}.") from exc
        if not addresses:
            raise RequestNotSent(f"The name {host} has no address: check its spelling.")
        return addresses

    async def _attach(
        self, sock: socket.socket, host: str, port: int, *, secure: bool, make_protocol: Callable[[], ProtocolT]
    ) -> ProtocolT:
        """Put *wire* on the connected socket, with the TLS handshake if *secure*."""
        try:
            return await self._create_connection(sock, host, secure=secure, make_protocol=make_protocol)
        except ssl.SSLCertVerificationError as exc:
            raise RequestNotSent(
                f"The certificate of {host} does not hold: {exc.verify_message or _error_text(exc)}."
            ) from exc
        except ssl.SSLError as exc:
            raise RequestNotSent(f"TLS with {host}:{port} failed ({_error_text(exc)}): is it an https port?") from exc
        except (OSError, ValueError) as exc:
            raise RequestNotSent(
                f"TLS with {host}:{port} failed: {_error_text(exc) or 'the peer closed the connection'}."
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
    """Ask the system's resolver for every address of *host*, in its order of preference.

    On a daemon thread of its own: a resolver that hangs for half a minute blocks neither the few
    threads of the loop's executor nor the end of the process.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[IPAddress]] = loop.create_future()

    def ask() -> None:
        try:
            found = _unique_addresses(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            tell(answer.set_exception, exc)
        else:
            tell(answer.set_result, found)

    def tell(say: Callable[..., None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and nobody waits any more
            loop.call_soon_threadsafe(lambda: None if answer.done() else say(what))

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answer


def is_literal(host: str) -> bool:
    """Whether *host* is an address as it stands, in any spelling the system takes (``0x7f.1``, ``2130706433``)."""
    return bool(_literal_addresses(host))


def _literal_addresses(host: str) -> Sequence[IPAddress]:
    """Read *host* as an address the way the system would, without asking anybody."""
    try:
        return _unique_addresses(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except (OSError, UnicodeError, ValueError):
        return ()


def _unique_addresses(found: Sequence[tuple[object, ...]]) -> Sequence[IPAddress]:
    return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))  # type: ignore[index]  # a sockaddr


async def _connect(host: str, port: int, addresses: Sequence[IPAddress]) -> socket.socket:
    """Connect to the first of *addresses* that answers; of the troubles, the last is told."""
    trouble = RequestNotSent(f"{host} has no address.")
    for number, address in enumerate(addresses, start=1):
        where = f"{host}:{port}" if is_literal(host) else f"{host}:{port} ({address})"
        patience = CONNECT_SECONDS if number == len(addresses) else _FALLBACK_CONNECT_SECONDS
        try:
            return await _connect_to(address, port, time_limit=patience)
        except ConnectionRefusedError as exc:
            trouble = RequestNotSent(f"{where} refused the connection: is anything listening there?")
            trouble.__cause__ = exc
        except TimeoutError as exc:
            trouble = RequestNotSent(
                f"{where} did not take the connection in {patience:g} s: is a firewall in between?"
            )
            trouble.__cause__ = exc
        except OSError as exc:
            trouble = RequestNotSent(f"No connection to {where}: {_error_text(exc)}.")
            trouble.__cause__ = exc
    raise trouble


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
    """Say what the system says, without its numbers and its file names."""
    match exc:
        case ssl.SSLError(reason=str(reason)) if reason:
            return reason.replace("_", " ").lower()
        case OSError(strerror=str(words)):
            return words
        case _:
            return str(exc)
