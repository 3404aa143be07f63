"""The least Kling: it reads a create and answers with a new task's ID. ``python -m benchmarks.kling PORT``."""

import asyncio
import sys
from itertools import count

import httptools
import uvloop

_CREATED = (
    b'{"code":0,"message":"SUCCEED","request_id":"r","data":'
    b'{"task_id":"8672837%012d","task_status":"submitted","created_at":1785901861504,"updated_at":1785901861504}}'
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Kling(asyncio.Protocol):
    """One connection: answers each request as a create."""

    _numbers = count(1)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a Transport for TCP
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        body = _CREATED % next(self._numbers)
        self._transport.write(_HEAD % (len(body), body))


async def serve(port: int) -> None:
    """Answer creates until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(Kling, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
