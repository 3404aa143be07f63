"""HTTP requests to one server over keep-alive connections, with asyncio and httptools alone.

A command should take a fraction of a second, and a full HTTP library takes longer to load than its request takes.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import quote, urlsplit

import httptools
import msgspec

_CHUNK_SIZE = 1 << 16
_MAX_OPEN = 100
_IDLE_SECONDS = 4.0  # the service closes an idle connection after 5 s
_DEFAULT_PORTS = {"http": 80, "https": 443}
_INFORMATIONAL = range(100, 200)
_URL_CHARACTERS = "/%:@!$&'()*+,;=~?"  # those that need no escape in a path with a query


class NotSent(Exception):
    """The server could not be reached, so it did not receive the request."""


class NoAnswer(Exception):
    """The request was sent and got no complete answer."""


class Response(msgspec.Struct, eq=False):
    """A response, filled by the parser as it arrives."""

    status: int = 0
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    has_head: bool = False
    keep_alive: bool = False
    is_complete: bool = False
    parser: Any = None
    _parts: list[bytes] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def take_body(self) -> bytes:
        """Return what has arrived of the body since the last call."""
        body = b"".join(self._parts)
        self._parts.clear()
        return body

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Read what the head says. The real response follows an informational one."""
        self.status = self.parser.get_status_code()
        self.has_head = self.status not in _INFORMATIONAL
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_complete = self.has_head

    @property
    def ends_with_connection(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.has_head and not {"content-length", "transfer-encoding"} & self.headers.keys()


class _Connection(msgspec.Struct, frozen=True, eq=False):
    """An open connection, and since when it is idle."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether the server is likely to accept one more request on it."""
        is_open = not (self.reader.at_eof() or self.writer.is_closing())
        return is_open and monotonic() - self.idle_since < _IDLE_SECONDS

    async def write(self, content: bytes, seconds: float) -> None:
        """Send *content*. Each part must be accepted within *seconds*."""
        try:
            for start in range(0, len(content), _CHUNK_SIZE):
                self.writer.write(content[start : start + _CHUNK_SIZE])
                async with asyncio.timeout(seconds):
                    await self.writer.drain()
        except (OSError, TimeoutError) as exc:
            raise NoAnswer from exc

    async def read(self, response: Response, seconds: float) -> None:
        """Read what arrives next, within *seconds*, into *response*."""
        try:
            async with asyncio.timeout(seconds):
                data = await self.reader.read(_CHUNK_SIZE)
            if data:
                response.parser.feed_data(data)
            elif response.ends_with_connection:
                response.is_complete = True
            else:
                raise ConnectionResetError
        except (OSError, TimeoutError, httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise NoAnswer from exc

    def close(self) -> None:
        """Close the connection at once."""
        self.writer.transport.abort()


class HttpConnections:
    """Requests to the server at *url*, each with *headers*. Raises NotSent and NoAnswer.

    Raises ValueError if *url* is not an http or https URL.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, tls: ssl.SSLContext | None, connect_seconds: float
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("not an http or https URL")
        self._host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._path = parts.path.rstrip("/")
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._headers = {"host": f"{host}:{self._port}" if parts.port else host, "accept-encoding": "identity"}
        self._headers |= headers
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._places = asyncio.Semaphore(_MAX_OPEN)
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def request(
        self, method: str, target: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> tuple[int, bytes]:
        """Send a request; return the response's status and body. The server may be silent for *seconds*."""
        async with self._places, self._exchange(method, target, headers, body, seconds) as (connection, response):
            while not response.is_complete:
                await connection.read(response, seconds)
            return response.status, response.take_body()

    @asynccontextmanager
    async def stream(self, target: str, *, seconds: float) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """Send a GET. Yield the response once its head is there, and the parts of its body as they arrive."""
        async with self._exchange("GET", target, {}, None, seconds) as (connection, response):
            yield response, _parts(connection, response, seconds)

    @asynccontextmanager
    async def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> AsyncIterator[tuple[_Connection, Response]]:
        """Send a request and read the head of its response. The connection is kept if the response is complete."""
        connection, response = await self._connect(), Response()
        try:
            await connection.write(self._request_bytes(method, target, headers, body), seconds)
            while not response.has_head:
                await connection.read(response, seconds)
            yield connection, response
        finally:
            if response.is_complete and response.keep_alive:
                self._idle.append(_Connection(connection.reader, connection.writer, monotonic()))
            else:
                connection.close()

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(self._connect_seconds):
                return _Connection(*await asyncio.open_connection(self._host, self._port, ssl=self._tls))
        except (OSError, TimeoutError) as exc:
            raise NotSent from exc

    def _request_bytes(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        lines = {**self._headers, **headers}
        if body is not None:
            lines |= {"content-type": "application/json", "content-length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        target = self._path + quote(target, safe=_URL_CHARACTERS)
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + (body or b"")


async def _parts(connection: _Connection, response: Response, seconds: float) -> AsyncGenerator[bytes, None]:
    while True:
        if part := response.take_body():
            yield part
        if response.is_complete:
            return
        await connection.read(response, seconds)
