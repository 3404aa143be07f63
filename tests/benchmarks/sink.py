"""A destination that answers every webhook at once, so that it is never the bottleneck.

``python -m benchmarks.sink PORT`` runs it as a process. With ``hangs`` appended, it never answers.
"""

import asyncio
import sys
from collections.abc import Callable

import httptools
import uvloop

_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sink(asyncio.Protocol):
    """One connection of a sender. Calls *arrived* for each webhook, and answers unless it *hangs*."""

    def __init__(self, on_webhook: Callable[[], None] = lambda: None, *, hangs: bool = False) -> None:
        self._on_webhook = on_webhook
        self._hangs = hangs

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a Transport for TCP
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._on_webhook()
        if not self._hangs:
            self._transport.write(_RESPONSE)


async def serve(port: int, *, hangs: bool) -> None:
    """Accept webhooks until the process is stopped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(hangs=hangs), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), hangs="hangs" in sys.argv[2:]))
