"""A destination that takes every webhook at once, so that it never is what is measured.

``python -m benchmarks.sink PORT`` runs it as a process of its own.
"""

import asyncio
import sys
from collections.abc import Callable

import httptools
import uvloop

_TAKEN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sink(asyncio.Protocol):
    """One connection of a sender; tells *arrived* of each webhook."""

    def __init__(self, arrived: Callable[[], None] = lambda: None) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP's always is one
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._arrived()
        self._transport.write(_TAKEN)


async def serve(port: int) -> None:
    """Take webhooks until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
