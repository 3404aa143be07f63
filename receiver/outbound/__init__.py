"""Every HTTP request that leaves: guarded at the dial, bounded in time and size, and honest about how it ended.

The one place that knows the HTTP client library. URLs are read and certificates trusted as httpx does, and the
protocol is spoken by h11, as httpx does too. Its client and its pool stay out: cookies, redirects, proxies from the
environment and decoding are all things that must not happen here, and without them a request costs a fraction.
"""

import asyncio
import base64
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import TypeVar

import h11
import httpx2 as httpx

from receiver.errors import NoAnswer, NotSent
from receiver.outbound.dial import Dialer, Guard, IPAddress, Resolve, is_literal
from receiver.outbound.line import Line, Lines
from receiver.outbound.wire import Cut, Wire

__all__ = ["Guard", "IPAddress", "Incoming", "Outbound", "Reply", "Resolve", "names_an_address"]

T = TypeVar("T")

_OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "accept-encoding",
    }
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
_HOST = re.compile(r"[0-9A-Za-z_.:-]+")  # a name after IDNA, or an address


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the peer answered. Header names are in lower case; ``body`` is raw and, if ``truncated``, its start."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """An answer whose body is still on the wire. ``peer`` names who gives it, as far as it may be shown."""

    peer: str
    status: int
    headers: Mapping[str, str]
    pieces: AsyncIterator[bytes]


class Outbound:
    """Makes HTTP requests over kept-alive connections of its own.

    Bounds: *max_connections* requests at once, the time and size each request states. A guard sees every
    address before it is dialled. ``request`` raises DialRefused, NotSent or NoAnswer and nothing else.
    """

    def __init__(
        self,
        *,
        guard: Guard | None = None,
        max_connections: int = 100,
        user_agent: str,
        resolve: Resolve | None = None,
        make_tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._dialer = Dialer(guard=guard, resolve=resolve, make_tls=make_tls or _trust_as_httpx_does)
        self._lines = Lines(most_idle=max_connections)
        self._turns = asyncio.Semaphore(max_connections)
        self._user_agent = user_agent

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        total: timedelta,
        limit: int,
    ) -> Reply:
        """Make one request within *total*, all in all, and keep at most *limit* bytes of the answer's body."""
        read = partial(_read, limit=limit)
        return await self._exchange(method, url, headers=headers or {}, content=content, total=total, read=read)

    async def stream(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        total: timedelta,
        read: Callable[[Incoming], Awaitable[T]],
    ) -> T:
        """Get *url* within *total*, all in all, and let *read* take the answer as it comes; give what it gives.

        What *read* leaves on the wire is dropped. What it raises is raised, beside what ``request`` raises.
        """
        return await self._exchange("GET", url, headers=headers or {}, content=b"", total=total, read=read)

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes,
        total: timedelta,
        read: Callable[[Incoming], Awaitable[T]],
    ) -> T:
        target = _target(url)
        exchange = _Exchange(target=target)
        lines = self._headers(method, target, headers, content)
        try:
            request = h11.Request(method=method, target=target.path, headers=lines)
        except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
            raise NotSent(
                f"The request to {target.name} has a method, path or header that HTTP does not allow."
            ) from exc
        seconds = total.total_seconds()
        try:
            async with asyncio.timeout(seconds), self._turns:
                return await self._make(request, content, exchange, read)
        except TimeoutError as exc:
            raise exchange.timed_out(seconds) from exc

    async def aclose(self) -> None:
        """Close every connection and wait until the system has them back."""
        await self._lines.aclose()

    def _headers(
        self, method: str, target: "_Target", headers: Mapping[str, str], content: bytes
    ) -> list[tuple[bytes, bytes]]:
        """Put the headers together; what frames the message is ours to say, whatever the caller hands on."""
        asked = {name.lower(): value for name, value in headers.items()}
        wanted = {"accept": "*/*", "user-agent": self._user_agent, **target.authorization, **asked}
        lines = [(b"host", target.host_header), (b"accept-encoding", b"identity")]
        lines += [(_bytes(name), _bytes(value)) for name, value in wanted.items() if name not in _OURS]
        if content or method in ("POST", "PUT", "PATCH"):
            lines.append((b"content-length", b"%d" % len(content)))
        return lines

    async def _make(
        self, request: h11.Request, content: bytes, exchange: "_Exchange", read: Callable[[Incoming], Awaitable[T]]
    ) -> T:
        line = await self._line(exchange)
        exchange.wire = line.wire
        try:
            response = await line.ask(request, content)
            exchange.answering = True
            async with contextlib.aclosing(line.pieces()) as pieces:
                return await read(_incoming(response, exchange.target, pieces))
        except (Cut, h11.ProtocolError) as exc:
            raise exchange.broken() from exc
        finally:
            self._lines.give_back(exchange.target.origin, line)

    async def _line(self, exchange: "_Exchange") -> Line:
        """Take an idle connection, or make one."""
        target = exchange.target
        line = self._lines.take(target.origin)
        if line is None:
            exchange.dialling = True
            wire = await self._dialer.dial(target.host, target.port, secure=target.secure, wire=self._lines.wire)
            line = self._lines.add(wire)
        return line


def _trust_as_httpx_does() -> ssl.SSLContext:
    import httpcore2  # noqa: PLC0415 -- start-up time that only https should pay

    return httpcore2.default_ssl_context()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def names_an_address(url: str) -> bool:
    """Whether the host in *url* is an address as it stands, so that no change of the DNS can lead it elsewhere."""
    try:
        return is_literal(_target(url).host)
    except NotSent:
        return False


def _incoming(response: h11.Response, target: "_Target", pieces: AsyncIterator[bytes]) -> Incoming:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Incoming(peer=target.name, status=response.status_code, headers=headers, pieces=pieces)


async def _read(incoming: Incoming, *, limit: int) -> Reply:
    """Read the body raw; past *limit* the rest, however long it is, is left on the wire."""
    body = bytearray()
    async for piece in incoming.pieces:
        body += piece
        if len(body) > limit:
            break
    return Reply(
        status=incoming.status, headers=incoming.headers, body=bytes(body[:limit]), truncated=len(body) > limit
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where a URL leads, as the connection wants to know it."""

    secure: bool
    path: bytes
    host: str
    port: int
    host_header: bytes
    authorization: Mapping[str, str]
    origin: str

    @property
    def name(self) -> str:
        """The part of the URL that may be shown."""
        return f"{self.host}:{self.port}"


@lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        raise NotSent("The URL cannot be read: write it as https://host/path.") from exc
    default_port = _DEFAULT_PORTS.get(parsed.scheme)
    if default_port is None or not _HOST.fullmatch(host):
        raise NotSent("The URL is not one of http or https with a host: write it as https://host/path.")
    port = default_port if parsed.port is None else parsed.port
    if not 0 < port <= _LAST_PORT:
        raise NotSent(f"There is no port {port}: correct the URL.")
    authorization = {}
    if parsed.userinfo:
        word = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode("ascii")
        authorization["authorization"] = f"Basic {word}"
    return _Target(
        secure=parsed.scheme == "https",
        path=parsed.raw_path,
        host=host,
        port=port,
        host_header=parsed.netloc,
        authorization=authorization,
        origin=f"{parsed.scheme}://{host}:{port}",
    )


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """How far one request has come, so that its end can be told truthfully."""

    target: _Target
    dialling: bool = False
    wire: Wire | None = None
    answering: bool = False

    def timed_out(self, seconds: float) -> NotSent | NoAnswer:
        """Say what the time ran out on."""
        name = self.target.name
        if self.answering:
            return NoAnswer(f"{name} began an answer and did not finish it within {seconds:g} s.")
        if self.wire is not None and self.wire.wrote:
            return NoAnswer(f"{name} took the request and did not answer within {seconds:g} s.")
        if self.dialling:
            return NotSent(f"No connection to {name} within {seconds:g} s.")
        return NotSent(f"{name} was not tried: all connections were in use for {seconds:g} s.")

    def broken(self) -> NotSent | NoAnswer:
        """Say how the exchange broke, without a word of what either side sent."""
        name = self.target.name
        if self.wire is None or not self.wire.wrote:
            return NotSent(f"{name} closed the connection before the request was sent.")
        if self.answering:
            return NoAnswer(f"{name} broke off in the middle of its answer.")
        if not self.wire.heard:
            how = "closed" if self.wire.trouble is None else "reset"
            return NoAnswer(f"{name} took the request and {how} the connection without an answer.")
        return NoAnswer(f"{name} did not answer in HTTP that can be understood.")
