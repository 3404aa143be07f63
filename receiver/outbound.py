"""Every HTTP request that leaves: guarded at the dial, bounded in time and size, and honest about how it ended.

The one module that knows the HTTP client library. It uses that library's connections and not its client:
cookies, redirects, proxies from the environment and decoding are all things that must not happen here, and
without them the same protocol code does several times as many requests a second.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import httpcore2
import httpx2 as httpx

from receiver.dial import Dialer, Guard, Resolve
from receiver.errors import NoAnswer, NotSent

__all__ = ["Guard", "Outbound", "Reply"]

IDLE_SECONDS = 4.0  # under the 5 s after which uvicorn and node hang up: a request must not meet a closing connection
_CLOSING_SECONDS = 1.0
_PIECE = 64 * 1024  # what is written before the peer is looked at, so that an early 413 is seen
_MAX_UNREAD = 256 * 1024
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
_BROKEN = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.ConnectionNotAvailable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the peer answered. Header names are in lower case; ``body`` is raw and, if ``truncated``, its start."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False


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
        make_tls: Callable[[], ssl.SSLContext] = httpcore2.default_ssl_context,
    ) -> None:
        self._dialer = Dialer(guard=guard, resolve=resolve, make_tls=make_tls)
        self._lines = _Lines(most_idle=max_connections)
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
        target = _target(url)
        request = httpcore2.Request(
            method,
            target.url,
            headers=self._headers(method, target, headers or {}, content),
            content=_pieces(content),
        )
        exchange = _Exchange(target=target)
        seconds = total.total_seconds()
        try:
            async with asyncio.timeout(seconds), self._turns:
                return await self._make(request, exchange, limit)
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

    async def _make(self, request: httpcore2.Request, exchange: "_Exchange", limit: int) -> Reply:
        target = exchange.target
        line = self._lines.take(target)
        if line is None:
            exchange.dialling = True
            wire = await self._dialer.dial(
                target.host, target.port, secure=target.url.scheme == b"https", wire=self._lines.wire
            )
            line = _Line(wire, httpcore2.AsyncHTTP11Connection(target.url.origin, wire, keepalive_expiry=IDLE_SECONDS))
        exchange.wire = line.wire
        line.wire.begin()
        try:
            response = await line.connection.handle_async_request(request)
            exchange.answering = True
            return await _read(response, limit)
        except _BROKEN as exc:
            raise exchange.broken(exc) from exc
        finally:
            self._lines.give_back(target, line)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


async def _pieces(content: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


async def _read(response: httpcore2.Response, limit: int) -> Reply:
    """Read the body raw; past *limit* the rest, however long it is, is left on the wire."""
    body = bytearray()
    async with contextlib.aclosing(response), contextlib.aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                break
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Reply(status=response.status, headers=headers, body=bytes(body[:limit]), truncated=len(body) > limit)


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
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        raise NotSent("The URL cannot be read: write it as https://host/path.") from exc
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise NotSent("The URL is not one of http or https with a host: write it as https://host/path.")
    authorization = {}
    if parsed.userinfo:
        word = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode("ascii")
        authorization["authorization"] = f"Basic {word}"
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return _Target(
        url=httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=port, target=parsed.raw_path),
        host=parsed.raw_host.decode("ascii"),
        port=port,
        host_header=parsed.netloc,
        authorization=authorization,
        origin=f"{parsed.scheme}://{parsed.host}:{port}",
    )


@dataclass(slots=True, kw_only=True)
class _Exchange:
    """How far one request has come, so that its end can be told truthfully."""

    target: _Target
    dialling: bool = False
    wire: "_Wire | None" = None
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

    def broken(self, exc: Exception) -> NotSent | NoAnswer:
        """Say how the exchange broke, without a word of what either side sent."""
        name = self.target.name
        if isinstance(exc, httpcore2.LocalProtocolError):
            return NotSent(f"The request to {name} has a method, path or header that HTTP does not allow.")
        if self.wire is None or not self.wire.wrote:
            return NotSent(f"{name} closed the connection before the request was sent.")
        if self.answering:
            return NoAnswer(f"{name} broke off in the middle of its answer.")
        if not self.wire.heard:
            how = "closed" if self.wire.trouble is None else "reset"
            return NoAnswer(f"{name} took the request and {how} the connection without an answer.")
        return NoAnswer(f"{name} did not answer in HTTP that can be understood.")


class _Wire(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection's bytes, without a task or a time-out per read: the deadline around the request is enough.

    What is written is kept until a piece is full or an answer is wanted, so that headers and body leave together.
    """

    def __init__(self, open_wires: set["_Wire"]) -> None:
        self.wrote = False
        self.heard = False
        self.trouble: Exception | None = None
        self._open_wires = open_wires
        self._transport: asyncio.Transport | None = None
        self._outbox: list[bytes] = []
        self._inbox = bytearray()
        self._ended = False
        self._paused = False
        self._choked = False
        self._change: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Forget the exchange before."""
        self.wrote = self.heard = False

    def abort(self) -> None:
        """Close at once; what is still unsent is not wanted any more."""
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream socket it is a full transport
        self._open_wires.add(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._inbox += data
        if len(self._inbox) > _MAX_UNREAD and self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        self._ended = True
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self.trouble = exc
        self._open_wires.discard(self)
        self._tell()

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._tell()

    # What the HTTP connection calls.

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109  # httpcore's
        """Send, or keep until there is more to send."""
        self._outbox.append(buffer)
        if len(self._outbox) > 1 and sum(map(len, self._outbox)) > _PIECE:
            await self._flush()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109  # httpcore's
        """Give what has come in, nothing at all once the peer has ended; *max_bytes* is the loop's to keep."""
        if self._outbox:
            with contextlib.suppress(httpcore2.WriteError):  # the peer may have answered before it hung up
                await self._flush()
        while not self._inbox and not self._ended:
            await self._wait()
        if not self._inbox and (self.trouble is not None or not self.heard):
            raise httpcore2.ReadError("closed")
        data = bytes(self._inbox)
        self._inbox.clear()
        if self._paused and self._transport is not None and not self._ended:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    def get_extra_info(self, info: str) -> bool | None:
        """Tell whether an idle connection has something to say, which can only be its end."""
        return bool(self._ended or self._inbox) if info == "is_readable" else None

    async def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        if self._transport is None or self._transport.is_closing():
            raise httpcore2.WriteError("closed")
        self.wrote = True
        self._transport.write(data)
        while self._choked and not self._ended:
            await self._wait()

    async def _wait(self) -> None:
        self._change = asyncio.get_running_loop().create_future()
        try:
            await self._change
        finally:
            self._change = None

    def _tell(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)


@dataclass(frozen=True, slots=True)
class _Line:
    """A wire and the HTTP that is spoken over it."""

    wire: _Wire
    connection: httpcore2.AsyncHTTP11Connection


class _Lines:
    """Every open connection, and which of them are idle. Nothing here awaits, so that no cancellation can lose one."""

    def __init__(self, *, most_idle: int) -> None:
        self._most_idle = most_idle
        self._open: set[_Wire] = set()
        self._idle: dict[str, list[_Line]] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    def wire(self) -> _Wire:
        """Make the wire of a new connection."""
        return _Wire(self._open)

    def take(self, target: _Target) -> _Line | None:
        """Take the idle connection to *target* that was used last, if it still stands."""
        idle = self._idle.get(target.origin, [])
        while idle:
            line = idle.pop()
            if not line.connection.has_expired():
                return line
            line.wire.abort()
        return None

    def give_back(self, target: _Target, line: _Line) -> None:
        """Keep a connection whose exchange ended in order, drop any other."""
        if not line.connection.is_idle() or sum(map(len, self._idle.values())) >= self._most_idle:
            line.wire.abort()
            return
        self._idle.setdefault(target.origin, []).append(line)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody used for a while."""
        self._sweeping = None
        for origin, lines in list(self._idle.items()):
            for line in lines:
                if line.connection.has_expired():
                    line.wire.abort()
            self._idle[origin] = [line for line in lines if not line.connection.has_expired()]
            if not self._idle[origin]:
                del self._idle[origin]
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._sweep)

    async def aclose(self) -> None:
        """Close all and wait a moment until the system has them back."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._idle.clear()
        for wire in tuple(self._open):
            wire.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                while self._open:  # noqa: ASYNC110  # an event for this would outweigh the wait
                    await asyncio.sleep(0)
