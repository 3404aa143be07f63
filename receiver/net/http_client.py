"""Every HTTP request that leaves: guarded at the dial, bounded in time and size, and honest about how it ended.

The one place that knows the HTTP client library. It uses that library's connections and not its client:
cookies, redirects, proxies from the environment and decoding are all things that must not happen here, and
without them the same protocol code does several times as many requests a second.
"""

import asyncio
import base64
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import TypeVar

import httpcore2
import httpx2 as httpx

from receiver.domain.errors import NoResponse, RequestNotSent
from receiver.net.connection_pool import CHUNK_SIZE, Connection, ConnectionPool
from receiver.net.dialer import AddressGuard, Dialer, IPAddress, Resolve, is_literal

__all__ = [
    "AddressGuard",
    "HttpClient",
    "HttpResponse",
    "IPAddress",
    "Resolve",
    "StreamedBody",
    "StreamedResponse",
    "has_literal_ip",
    "read_limited",
]

T = TypeVar("T")

_MANAGED_HEADERS = frozenset(
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
_TRANSPORT_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.ConnectionNotAvailable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """What the peer answered. Header names are in lower case; ``body`` is raw and, if ``truncated``, its start."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedResponse:
    """An answer whose body is still on the wire. ``peer`` names who gives it, as far as it may be shown."""

    peer: str
    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedBody:
    """A body to send that is itself still on its way to us; its pieces can be had once. ``size``: None if unknown."""

    size: int | None
    chunks: AsyncIterator[bytes]


class HttpClient:
    """Makes HTTP requests over kept-alive connections of its own.

    Bounds: *max_connections* requests at once, the time and size each request states. A guard sees every
    address before it is dialled. ``request`` raises DialRefused, NotSent or NoAnswer and nothing else.
    """

    def __init__(
        self,
        *,
        guard: AddressGuard | None = None,
        max_connections: int = 100,
        user_agent: str,
        resolve: Resolve | None = None,
        make_tls: Callable[[], ssl.SSLContext] = httpcore2.default_ssl_context,
    ) -> None:
        self._dialer = Dialer(guard=guard, resolve=resolve, make_tls=make_tls)
        self._pool = ConnectionPool(max_idle=max_connections)
        self._slots = asyncio.Semaphore(max_connections)
        self._user_agent = user_agent

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        time_limit: timedelta,
        max_body: int,
    ) -> HttpResponse:
        """Make one request within *total*, all in all, and keep at most *limit* bytes of the answer's body."""
        read = partial(read_limited, max_body=max_body)
        return await self._exchange(
            method, url, headers=headers or {}, content=content, time_limit=time_limit, read=read
        )

    async def stream(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | StreamedBody = b"",
        time_limit: timedelta,
        extra_body_time: timedelta = timedelta(),
        read: Callable[[StreamedResponse], Awaitable[T]],
    ) -> T:
        """Get *url* and let *read* take the answer as it comes; give what it gives.

        It may take *total*, all in all, and once the answer has begun the *rest* on top of that. What *read* leaves on
        the wire is dropped. What it or *content* raises is raised, beside what ``request`` raises.
        """
        return await self._exchange(
            method,
            url,
            headers=headers or {},
            content=content,
            time_limit=time_limit,
            extra_body_time=extra_body_time,
            read=read,
        )

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | StreamedBody,
        time_limit: timedelta,
        extra_body_time: timedelta = timedelta(),
        read: Callable[[StreamedResponse], Awaitable[T]],
    ) -> T:
        target = _target(url)
        request = httpcore2.Request(
            method,
            target.url,
            headers=self._headers(method, target, headers, content),
            content=_chunks(content),
        )
        exchange = _Exchange(target=target, seconds=time_limit.total_seconds())
        try:
            async with asyncio.timeout(exchange.seconds) as deadline, self._slots:
                begun = partial(exchange.on_response_started, deadline, extra_body_time)
                return await self._send(request, exchange, read, begun)
        except TimeoutError as exc:
            raise exchange.timeout_error() from exc

    async def aclose(self) -> None:
        """Close every connection and wait until the system has them back."""
        await self._pool.aclose()

    def _headers(
        self, method: str, target: "_Target", headers: Mapping[str, str], content: bytes | StreamedBody
    ) -> list[tuple[bytes, bytes]]:
        """Put the headers together; what frames the message is ours to say, whatever the caller hands on."""
        asked = {name.lower(): value for name, value in headers.items()}
        wanted = {"accept": "*/*", "user-agent": self._user_agent, **target.authorization, **asked}
        lines = [(b"host", target.host_header), (b"accept-encoding", b"identity")]
        lines += [(_encode(name), _encode(value)) for name, value in wanted.items() if name not in _MANAGED_HEADERS]
        size = content.size if isinstance(content, StreamedBody) else len(content)
        if size is None:
            lines.append((b"transfer-encoding", b"chunked"))
        elif size or method in ("POST", "PUT", "PATCH"):
            lines.append((b"content-length", b"%d" % size))
        return lines

    async def _send(
        self,
        request: httpcore2.Request,
        exchange: "_Exchange",
        read: Callable[[StreamedResponse], Awaitable[T]],
        on_response_started: Callable[[], None],
    ) -> T:
        target = exchange.target
        line = self._pool.acquire(target.origin)
        if line is None:
            exchange.dialing = True
            wire = await self._dialer.dial(
                target.host, target.port, secure=target.url.scheme == b"https", make_protocol=self._pool.new_connection
            )
            line = self._pool.register(wire, target.url.origin)
        exchange.connection = line.connection
        line.connection.reset()
        try:
            response = await line.http.handle_async_request(request)
            on_response_started()
            async with contextlib.aclosing(response), contextlib.aclosing(response.aiter_stream()) as pieces:
                return await read(_streamed_response(response, target, pieces))
        except _TRANSPORT_ERRORS as exc:
            raise exchange.transport_error(exc) from exc
        finally:
            self._pool.release(target.origin, line)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


async def _chunks(content: bytes | StreamedBody) -> AsyncGenerator[bytes]:
    if isinstance(content, StreamedBody):
        async for piece in content.chunks:
            yield piece
        return
    for start in range(0, len(content), CHUNK_SIZE):
        yield content[start : start + CHUNK_SIZE]


def has_literal_ip(url: str) -> bool:
    """Whether the host in *url* is an address as it stands, so that no change of the DNS can lead it elsewhere."""
    try:
        return is_literal(_target(url).host)
    except RequestNotSent:
        return False


def _streamed_response(
    response: httpcore2.Response, target: "_Target", chunks: AsyncIterator[bytes]
) -> StreamedResponse:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return StreamedResponse(peer=target.name, status=response.status, headers=headers, chunks=chunks)


async def read_limited(response: StreamedResponse, *, max_body: int) -> HttpResponse:
    """Read the body raw; past *limit* the rest, however long it is, is left on the wire."""
    body = bytearray()
    async for piece in response.chunks:
        body += piece
        if len(body) > max_body:
            break
    return HttpResponse(
        status=response.status, headers=response.headers, body=bytes(body[:max_body]), truncated=len(body) > max_body
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where a URL leads, as the connection wants to know it."""

    url: httpcore2.URL
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
        raise RequestNotSent("The URL cannot be read: write it as https://host/path.") from exc
    default_port = _DEFAULT_PORTS.get(parsed.scheme)
    if default_port is None or not _HOST.fullmatch(host):
        raise RequestNotSent("The URL is not one of http or https with a host: write it as https://host/path.")
    port = default_port if parsed.port is None else parsed.port
    if not 0 < port <= _LAST_PORT:
        raise RequestNotSent(f"There is no port {port}: correct the URL.")
    authorization = {}
    if parsed.userinfo:
        word = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode("ascii")
        authorization["authorization"] = f"Basic {word}"
    return _Target(
        url=httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=port, target=parsed.raw_path),
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
    seconds: float
    dialing: bool = False
    connection: Connection | None = None
    response_started: bool = False

    def on_response_started(self, deadline: asyncio.Timeout, extra_body_time: timedelta) -> None:
        """Note that the answer has begun, and give it time to end."""
        self.response_started = True
        due = deadline.when()
        if extra_body_time and due is not None:
            self.seconds += extra_body_time.total_seconds()
            deadline.reschedule(due + extra_body_time.total_seconds())

    def timeout_error(self) -> RequestNotSent | NoResponse:
        """Say what the time ran out on."""
        name, seconds = self.target.name, self.seconds
        if self.response_started:
            return NoResponse(f"{name} began an answer and did not finish it within {seconds:g} s.")
        if self.connection is not None and self.connection.sent:
            return NoResponse(f"{name} took the request and did not answer within {seconds:g} s.")
        if self.dialing:
            return RequestNotSent(f"No connection to {name} within {seconds:g} s.")
        return RequestNotSent(f"{name} was not tried: all connections were in use for {seconds:g} s.")

    def transport_error(self, exc: Exception) -> RequestNotSent | NoResponse:
        """Say how the exchange broke, without a word of what either side sent."""
        name = self.target.name
        if isinstance(exc, httpcore2.LocalProtocolError):
            return RequestNotSent(f"The request to {name} has a method, path or header that HTTP does not allow.")
        if self.connection is None or not self.connection.sent:
            return RequestNotSent(f"{name} closed the connection before the request was sent.")
        if self.response_started:
            return NoResponse(f"{name} broke off in the middle of its answer.")
        if not self.connection.received:
            how = "closed" if self.connection.error is None else "reset"
            return NoResponse(f"{name} took the request and {how} the connection without an answer.")
        return NoResponse(f"{name} did not answer in HTTP that can be understood.")
