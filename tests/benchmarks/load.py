"""Posts requests as fast as they are answered, over a fixed number of connections that stay open.

A process of its own, so that its work is not counted as the server's:
``python -m benchmarks.load PORT CONNECTIONS FILE``, the file with one JSON array ``[path, body]`` a line.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httptools
import uvloop


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How a run of requests went. ``began`` and ``ended`` are moments of the machine's monotonic clock."""

    began: float
    ended: float
    statuses: Mapping[int, int]
    bodies: Sequence[bytes] = field(repr=False)

    @property
    def rate(self) -> float:
        """Answers of 2xx per second."""
        return sum(count for status, count in self.statuses.items() if status < 300) / (self.ended - self.began)


def request(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Write a POST as it goes over the wire."""
    head = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def post_all(port: int, requests: Iterable[bytes], *, connections: int) -> Load:
    """Post them all, in order, each as soon as a connection is free."""
    waiting = iter(requests)
    statuses: Counter[int] = Counter()
    bodies: list[bytes] = []
    loop = asyncio.get_running_loop()
    busy = [
        (await loop.create_connection(lambda: _Connection(waiting, statuses, bodies), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    began = time.perf_counter()
    for connection in busy:
        connection.post_next()
    await asyncio.gather(*(connection.done for connection in busy))
    return Load(began=began, ended=time.perf_counter(), statuses=statuses, bodies=bodies)


class _Connection(asyncio.Protocol):
    """One connection: posts the next request when the last one is answered, until none is left."""

    def __init__(self, waiting: Iterable[bytes], statuses: Counter[int], bodies: list[bytes]) -> None:
        self._waiting = iter(waiting)
        self._statuses = statuses
        self._bodies = bodies
        self._body = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP's always is one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._statuses[self._parser.get_status_code()] += 1
        self._bodies.append(self._body)
        self.post_next()

    def post_next(self) -> None:
        following = next(self._waiting, None)
        if following is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(following)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up in the middle"))


def main(port: int, connections: int, file: Path) -> None:
    """Run the requests of *file* and print how it went."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    requests = [request(path, body.encode()) for path, body in lines]
    load = uvloop.run(post_all(port, requests, connections=connections))
    json.dump({"began": load.began, "ended": load.ended, "statuses": load.statuses}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
