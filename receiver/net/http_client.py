"""The HTTP client for every outgoing request: checked addresses, bounded time and size, exact errors.

Only this package knows the HTTP client library. It uses the library's connections but not its client. Cookies,
redirects, proxies from the environment and decoding must not happen here, and without them the same protocol code
makes several times as many requests per second.
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

from receiver.domain.errors import NetworkFault, NoResponse, RequestNotSent
from receiver.net.connection_pool import CHUNK_SIZE, MAX_AGE, Connection, ConnectionPool, PooledConnection
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
_HOST = re.compile(r"[0-9A-Za-z_.:-]+")  # an IDNA-encoded name, or an address
_TRANSPORT_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.ConnectionNotAvailable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A complete response. Header names are lower case; ``body`` is not decoded and may be ``truncated``."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedResponse:
    """A response whose body is still arriving. ``peer`` is the host and port, safe to show."""

    peer: str
    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedBody:
    """A request body that is still arriving; it can be read once. ``size`` is None if unknown."""

    size: int | None
    chunks: AsyncIterator[bytes]


class HttpClient:
    """Makes HTTP requests over its own keep-alive connections.

    Limits: *max_connections* requests at once, and the time and size of each request. The guard checks every address
    before it is dialled. ``request`` raises AddressBlocked, RequestNotSent or NoResponse, and nothing else.
    """

    def __init__(
        self,
        *,
        guard: AddressGuard | None = None,
        max_connections: int = 100,
        user_agent: str,
        max_age: timedelta = MAX_AGE,
        resolve: Resolve | None = None,
        make_tls: Callable[[], ssl.SSLContext] = httpcore2.default_ssl_context,
    ) -> None:
        self._dialer = Dialer(guard=guard, resolve=resolve, make_tls=make_tls)
        self._pool = ConnectionPool(max_idle=max_connections, max_age=max_age)
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
        reuse: bool = True,
    ) -> HttpResponse:
        """Make one request within *time_limit* in total, and keep at most *max_body* bytes of the response body.

        With *reuse* it may go over an idle connection. If the peer has just given that up and answers nothing, the
        request is sent once more, on a new connection. Without *reuse* it is sent at most once.
        """
        read = partial(read_limited, max_body=max_body)
        return await self._exchange(
            method, url, headers=headers or {}, content=content, time_limit=time_limit, reuse=reuse, read=read
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
        reuse: bool = True,
        read: Callable[[StreamedResponse], Awaitable[T]],
    ) -> T:
        """Request *url*, pass the streamed response to *read*, and return its result.

        It may take *time_limit* in total, plus *extra_body_time* once the response has started. Bytes that *read* does
        not consume are dropped. Exceptions of *read* and *content* propagate, besides those of ``request``. *reuse* is
        that of ``request``; a streamed *content* can be sent only once, so it always goes over a new connection.
        """
        return await self._exchange(
            method,
            url,
            headers=headers or {},
            content=content,
            time_limit=time_limit,
            extra_body_time=extra_body_time,
            reuse=reuse and not isinstance(content, StreamedBody),
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
        reuse: bool,
        read: Callable[[StreamedResponse], Awaitable[T]],
    ) -> T:
        target = _target(url)
        lines = self._headers(method, target, headers, content)
        exchange = _Exchange(target=target, seconds=time_limit.total_seconds())
        try:
            async with asyncio.timeout(exchange.seconds) as deadline, self._slots:

                async def send(pooled: PooledConnection) -> T:
                    request = httpcore2.Request(method, target.url, headers=lines, content=_chunks(content))
                    exchange.begin(pooled.connection)
                    try:
                        response = await pooled.http.handle_async_request(request)
                        exchange.on_response_started(deadline, extra_body_time)
                        async with (
                            contextlib.aclosing(response),
                            contextlib.aclosing(response.aiter_stream()) as chunks,
                        ):
                            return await read(_streamed_response(response, target, chunks))
                    finally:
                        self._pool.release(target.origin, pooled)

                return await self._send(send, exchange, reuse=reuse)
        except TimeoutError as exc:
            raise exchange.timeout_error() from exc
        except _TRANSPORT_ERRORS as exc:
            raise exchange.transport_error(exc) from exc

    async def aclose(self) -> None:
        """Close all connections and wait until they are released."""
        await self._pool.aclose()

    def _headers(
        self, method: str, target: "_Target", headers: Mapping[str, str], content: bytes | StreamedBody
    ) -> list[tuple[bytes, bytes]]:
        """Build the headers. Those that frame the message are always ours; the caller cannot set them."""
        given = {name.lower(): value for name, value in headers.items()}
        merged = {"accept": "*/*", "user-agent": self._user_agent, **target.authorization, **given}
        lines = [(b"host", target.host_header), (b"accept-encoding", b"identity")]
        lines += [(_encode(name), _encode(value)) for name, value in merged.items() if name not in _MANAGED_HEADERS]
        size = content.size if isinstance(content, StreamedBody) else len(content)
        if size is None:
            lines.append((b"transfer-encoding", b"chunked"))
        elif size or method in ("POST", "PUT", "PATCH"):
            lines.append((b"content-length", b"%d" % size))
        return lines

    async def _send(self, send: Callable[[PooledConnection], Awaitable[T]], exchange: "_Exchange", *, reuse: bool) -> T:
        """Send over an idle connection if there is one; if the peer answers nothing there, over a new one."""
        pooled = self._pool.acquire(exchange.target.origin) if reuse else None
        if pooled is not None:
            try:
                return await send(pooled)
            except _TRANSPORT_ERRORS:
                if pooled.connection.received:
                    raise
        return await send(await self._connect(exchange))

    async def _connect(self, exchange: "_Exchange") -> PooledConnection:
        exchange.dialing = True
        target = exchange.target
        connection = await self._dialer.dial(
            target.host, target.port, secure=target.url.scheme == b"https", make_protocol=self._pool.new_connection
        )
        return self._pool.register(connection, target.url.origin)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


async def _chunks(content: bytes | StreamedBody) -> AsyncGenerator[bytes]:
    if isinstance(content, StreamedBody):
        async for chunk in content.chunks:
            yield chunk
        return
    for start in range(0, len(content), CHUNK_SIZE):
        yield content[start : start + CHUNK_SIZE]


def has_literal_ip(url: str) -> bool:
    """Whether the host in *url* is a literal IP address, so that DNS cannot change where it leads."""
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
    """Read the body without decoding it. Bytes beyond *max_body* are not read."""
    body = bytearray()
    async for chunk in response.chunks:
        body += chunk
        if len(body) > max_body:
            break
    return HttpResponse(
        status=response.status, headers=response.headers, body=bytes(body[:max_body]), truncated=len(body) > max_body
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A parsed URL, in the parts that a connection needs."""

    url: httpcore2.URL
    host: str
    port: int
    host_header: bytes
    authorization: Mapping[str, str]
    origin: str

    @property
    def name(self) -> str:
        """Host and port, the only part of the URL that may be shown."""
        return f"{self.host}:{self.port}"


@lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        raise RequestNotSent("The URL is not valid. Write it like https://host/path.") from exc
    default_port = _DEFAULT_PORTS.get(parsed.scheme)
    if default_port is None or not _HOST.fullmatch(host):
        raise RequestNotSent("The URL is not an http or https URL with a host. Write it like https://host/path.")
    port = default_port if parsed.port is None else parsed.port
    if not 0 < port <= _LAST_PORT:
        raise RequestNotSent(f"The URL has an invalid port: {port}. Expected 1 to 65535.")
    authorization = {}
    if parsed.userinfo:
        credentials = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode("ascii")
        authorization["authorization"] = f"Basic {credentials}"
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
    """The progress of one request, so that an error can say exactly how far it came."""

    target: _Target
    seconds: float
    dialing: bool = False
    connection: Connection | None = None
    response_started: bool = False

    def begin(self, connection: Connection) -> None:
        """Note the connection that the request goes over."""
        connection.reset()
        self.connection = connection

    def on_response_started(self, deadline: asyncio.Timeout, extra_body_time: timedelta) -> None:
        """Note that the response has started, and extend the deadline for its body."""
        self.response_started = True
        ends_at = deadline.when()
        if extra_body_time and ends_at is not None:
            self.seconds += extra_body_time.total_seconds()
            deadline.reschedule(ends_at + extra_body_time.total_seconds())

    def timeout_error(self) -> RequestNotSent | NoResponse:
        """Return the error for a timeout, by the progress so far."""
        name, seconds, fault = self.target.name, self.seconds, NetworkFault.TIMEOUT
        if self.response_started:
            return NoResponse(f"{name} started a response but did not finish it within {seconds:g} s.", fault=fault)
        if self.connection is not None and self.connection.sent:
            return NoResponse(f"{name} received the request but did not answer within {seconds:g} s.", fault=fault)
        if self.dialing:
            return RequestNotSent(f"Could not connect to {name} within {seconds:g} s.", fault=fault)
        return RequestNotSent(
            f"No request was sent to {name}: all connections were in use for {seconds:g} s.", fault=fault
        )

    def transport_error(self, exc: Exception) -> RequestNotSent | NoResponse:
        """Return the error for a broken connection. It never quotes what either side sent."""
        name = self.target.name
        if isinstance(exc, httpcore2.LocalProtocolError):
            return RequestNotSent(f"The request to {name} has a method, path or header that is not valid HTTP.")
        if self.connection is None or not self.connection.sent:
            return RequestNotSent(f"{name} closed the connection before the request was sent.")
        if self.response_started:
            return NoResponse(f"{name} closed the connection in the middle of its response.")
        if not self.connection.received:
            action = "closed" if self.connection.error is None else "reset"
            return NoResponse(f"{name} received the request and {action} the connection without a response.")
        return NoResponse(f"{name} sent a response that is not valid HTTP.")
