"""A destination that takes every webhook at once, so that it never is what is measured.

``python -m benchmarks.sink PORT`` runs it as a process of its own; with ``hangs`` behind it, it never answers.
"""

import asyncio
import sys
from collections.abc import Callable

import httptools
import uvloop

_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sink(asyncio.Protocol):
    """One connection of a sender; tells *arrived* of each webhook, and answers it unless it *hangs*."""

    def __init__(self, on_webhook: Callable[[], None] = lambda: None, *, hangs: bool = False) -> None:
        self._on_webhook = on_webhook
        self._hangs = hangs

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP's always is one
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._on_webhook()
        if not self._hangs:
            self._transport.write(_RESPONSE)


async def serve(port: int, *, hangs: bool) -> None:
    """Take webhooks until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(hangs=hangs), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), hangs="hangs" in sys.argv[2:]))
