"""A destination that answers every webhook at once, so that it is never the bottleneck.

``python -m benchmarks.sink PORT`` runs it as a process. With ``hangs`` appended, it never answers. A request for
``/count`` is answered with the number of webhooks so far.
"""

import asyncio
import sys
from collections.abc import Callable

import httptools
import uvloop

_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_COUNT_PATH = b"/count"


class Sink(asyncio.Protocol):
    """One connection of a sender. Calls *on_webhook* for each webhook, and answers unless it *hangs*."""

    received = 0

    def __init__(self, on_webhook: Callable[[], None] = lambda: None, *, hangs: bool = False) -> None:
        self._on_webhook = on_webhook
        self._hangs = hangs
        self._is_count = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a Transport for TCP
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._is_count = url == _COUNT_PATH

    def on_message_complete(self) -> None:
        if self._is_count:
            body = b"%d" % Sink.received
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        Sink.received += 1
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
