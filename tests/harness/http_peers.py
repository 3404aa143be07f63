"""HTTP destinations for tests, well-behaved or broken, on real loopback sockets."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A received request. Header names are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes


Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Peer:
    """A server that records requests and answers as set."""

    handler: Handler
    scheme: str = "http"
    port: int = 0
    connections: int = 0
    open_connections: int = 0
    requests: list[Request] = field(default_factory=list)
    reads_requests: bool = True

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                if self.reads_requests:
                    self.requests.append(await read_request(reader))
                await self.handler(reader, writer)
                await writer.drain()
                if not self.reads_requests:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except RuntimeError:  # raised by uvloop after the peer has closed
            pass
        finally:
            self.open_connections -= 1
            writer.transport.abort()


@contextlib.asynccontextmanager
async def http_peer(
    handler: Handler | bytes, *, tls: ssl.SSLContext | None = None, reads_requests: bool = True
) -> AsyncIterator[Peer]:
    """Serve on a free loopback port. Bytes are sent unchanged; a function handles the connection itself."""
    peer = Peer(
        respond_with(handler) if isinstance(handler, bytes) else handler,
        scheme="https" if tls else "http",
        reads_requests=reads_requests,
    )
    async with tcp_server(peer.serve, tls=tls) as peer.port:
        yield peer


@contextlib.asynccontextmanager
async def tcp_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    *,
    tls: ssl.SSLContext | None = None,
    backlog: int = 100,
) -> AsyncIterator[int]:
    """Yield a free loopback port whose connections go to *handler*. Open connections are closed at the end."""
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handler(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, backlog=backlog)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def response(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """Return a valid HTTP response; ``content_type`` sets the header ``content-type``."""
    lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def respond_with(data: bytes, *, then_close: bool = False) -> Handler:
    """Return a handler that answers with these bytes."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()
            raise ConnectionError

    return answer


async def never_respond(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Never answer; wait until the client disconnects."""
    while await reader.read(65536):
        pass


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request; EOF before its end is an IncompleteReadError."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(line=line, headers=headers, body=body)
