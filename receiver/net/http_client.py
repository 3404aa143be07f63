"""The HTTP client for every outgoing request: checked addresses, bounded time and size, exact errors.

It has its own connections, for speed and for exact errors. Cookies, redirects, proxies from the environment and
decoding must not happen here.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import TypeVar

import msgspec

from receiver.domain.errors import NetworkFault, NoResponse, RequestNotSent
from receiver.net.connection_pool import MAX_AGE, ConnectionPool
from receiver.net.deadline import Deadline
from receiver.net.dialer import AddressGuard, Dialer, IPAddress, Resolve, is_literal
from receiver.net.http_connection import CHUNK_SIZE, BodyChunks, ConnectionBroken, HttpConnection
from receiver.net.request_head import Target, encode_head, parse_target
from receiver.net.response_parser import IncomingResponse
from receiver.net.tls import default_tls

__all__ = [
    "AddressGuard",
    "BeforeSend",
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
BeforeSend = Callable[[], Awaitable[None]]
"""Awaited directly before a request leaves, when the connection is open. What it raises ends the request unsent."""


class HttpResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A complete response. Header names are lower case; ``body`` is not decoded and may be ``truncated``."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


class StreamedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response whose body is still arriving. ``peer`` is the host and port, safe to show.

    ``body`` is the whole body if it has arrived together with the head, else None. ``chunks`` has it in any case.
    """

    peer: str
    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    body: bytes | None = None


class StreamedBody(msgspec.Struct, frozen=True, kw_only=True):
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
        make_tls: Callable[[], ssl.SSLContext] = default_tls,
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
        before_send: BeforeSend | None = None,
    ) -> HttpResponse:
        """Make one request within *time_limit* in total, and keep at most *max_body* bytes of the response body.

        With *reuse* it may go over an idle connection. If the peer has just given that up and answers nothing, the
        request is sent once more, on a new connection. Without *reuse* it is sent at most once.
        *before_send* is awaited on an open connection, directly before the request leaves. If it raises, nothing is
        sent, and its exception propagates.
        """
        read = partial(read_limited, max_body=max_body)
        return await self._exchange(
            method,
            url,
            headers=headers or {},
            content=content,
            time_limit=time_limit,
            reuse=reuse,
            read=read,
            before_send=before_send,
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
        before_send: BeforeSend | None = None,
    ) -> T:
        target = parse_target(url)
        size = content.size if isinstance(content, StreamedBody) else len(content)
        head = encode_head(method, target, headers, user_agent=self._user_agent, body_size=size)
        exchange = _Exchange(
            target=target,
            method=method,
            head=head,
            content=content,
            seconds=time_limit.total_seconds(),
            before_send=before_send,
        )
        try:
            with Deadline(exchange.seconds) as deadline:
                async with self._slots:

                    async def receive(connection: HttpConnection) -> T:
                        response = await connection.read_head()
                        exchange.on_response_started(deadline, extra_body_time)
                        return await read(_streamed_response(response, connection, target))

                    return await self._send(exchange, receive, reuse=reuse)
        except TimeoutError as exc:
            raise exchange.timeout_error() from exc
        except ConnectionBroken as exc:
            raise exchange.broken_error() from exc

    async def aclose(self) -> None:
        """Close all connections and wait until they are released."""
        await self._pool.aclose()

    async def _send(
        self, exchange: "_Exchange", receive: Callable[[HttpConnection], Awaitable[T]], *, reuse: bool
    ) -> T:
        """Send over an idle connection if there is one; if the peer answers nothing there, over a new one."""
        connection = self._pool.acquire(exchange.target.origin) if reuse else None
        if connection is not None:
            try:
                return await self._send_over(connection, exchange, receive)
            except ConnectionBroken:
                if connection.received:
                    raise
        return await self._send_over(await self._connect(exchange), exchange, receive)

    async def _send_over(
        self, connection: HttpConnection, exchange: "_Exchange", receive: Callable[[HttpConnection], Awaitable[T]]
    ) -> T:
        try:
            await exchange.send(connection)
            return await receive(connection)
        finally:
            self._pool.release(exchange.target.origin, connection)

    async def _connect(self, exchange: "_Exchange") -> HttpConnection:
        exchange.dialing = True
        target = exchange.target
        connection = await self._dialer.dial(
            target.host, target.port, secure=target.is_secure, make_protocol=self._pool.new_connection
        )
        self._pool.register(connection)
        return connection


def has_literal_ip(url: str) -> bool:
    """Whether the host in *url* is a literal IP address, so that DNS cannot change where it leads."""
    try:
        return is_literal(parse_target(url).host)
    except RequestNotSent:
        return False


def _streamed_response(response: IncomingResponse, connection: HttpConnection, target: Target) -> StreamedResponse:
    return StreamedResponse(
        peer=target.name,
        status=response.status,
        headers=response.headers,
        chunks=BodyChunks(connection, response),
        body=b"".join(response.chunks) if response.is_complete else None,
    )


async def read_limited(response: StreamedResponse, *, max_body: int) -> HttpResponse:
    """Read the body without decoding it. Bytes beyond *max_body* are not read."""
    body = response.body
    if body is None:
        received = bytearray()
        async for chunk in response.chunks:
            received += chunk
            if len(received) > max_body:
                break
        body = bytes(received)
    return HttpResponse(
        status=response.status, headers=response.headers, body=body[:max_body], truncated=len(body) > max_body
    )


class _Exchange(msgspec.Struct, kw_only=True):
    """The progress of one request, so that an error can say exactly how far it came."""

    target: Target
    method: str
    head: bytes
    content: "bytes | StreamedBody"
    seconds: float
    before_send: BeforeSend | None = None
    dialing: bool = False
    connection: HttpConnection | None = None
    response_started: bool = False

    async def send(self, connection: HttpConnection) -> None:
        """Send the request. Head and body leave together if the body is small."""
        if self.before_send is not None:
            await self.before_send()
        self.connection = connection
        connection.begin(self.method)
        content = self.content
        if isinstance(content, StreamedBody):
            chunks = self._chunked(content.chunks) if content.size is None else self._sized(content)
            await connection.send(self.head, chunks)
        elif len(content) <= CHUNK_SIZE:
            await connection.send(self.head + content)
        else:
            await connection.send(self.head, _pieces(content))

    async def _chunked(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in chunks:
            if chunk:
                yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
        yield b"0\r\n\r\n"

    async def _sized(self, content: "StreamedBody") -> AsyncGenerator[bytes]:
        """Yield the body. If its size is not the announced one, the peer gets an incomplete request and no more."""
        left = content.size or 0
        async for chunk in content.chunks:
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
        if left:
            raise RequestNotSent(f"The body of the request to {self.target.name} has another size than announced.")

    def on_response_started(self, deadline: Deadline, extra_body_time: timedelta) -> None:
        """Note that the response has started, and extend the deadline for its body."""
        self.response_started = True
        if extra_body_time:
            self.seconds += extra_body_time.total_seconds()
            deadline.extend(extra_body_time.total_seconds())

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

    def broken_error(self) -> RequestNotSent | NoResponse:
        """Return the error for a broken connection. It never quotes what either side sent."""
        name, connection = self.target.name, self.connection
        if connection is None or not connection.sent:
            return RequestNotSent(f"{name} closed the connection before the request was sent.")
        if connection.is_invalid or (connection.received and not self.response_started):
            return NoResponse(f"{name} sent a response that is not valid HTTP.")
        if self.response_started:
            return NoResponse(f"{name} closed the connection in the middle of its response.")
        action = "closed" if connection.error is None else "reset"
        return NoResponse(f"{name} received the request and {action} the connection without a response.")


async def _pieces(content: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(content), CHUNK_SIZE):
        yield content[start : start + CHUNK_SIZE]
