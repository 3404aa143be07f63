"""A load generator: posts requests as fast as they are answered, on a fixed number of keep-alive connections.

It is a separate process, so that its CPU time does not count for the server: ``python -m benchmarks.load PORT
CONNECTIONS FILE``. The file has one JSON array ``[path, body]`` per line, perhaps
with an object of headers.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httptools
import uvloop


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """Result of one run.

    ``started_at`` and ``ended_at`` are monotonic times, ``times`` the seconds until each answer.
    """

    started_at: float
    ended_at: float
    statuses: Mapping[int, int]
    times: Sequence[float] = field(repr=False)
    bodies: Sequence[bytes] = field(repr=False)

    @property
    def rate(self) -> float:
        """Answers of 2xx per second."""
        return sum(count for status, count in self.statuses.items() if status < 300) / (self.ended_at - self.started_at)


def request(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a POST request as bytes."""
    head = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def post_all(port: int, requests: Iterable[bytes], *, connections: int) -> LoadResult:
    """Post all requests in order, each as soon as a connection is free."""
    run = _Run(waiting=iter(requests))
    loop = asyncio.get_running_loop()
    busy = [(await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port))[1] for _ in range(connections)]
    began = time.perf_counter()
    for connection in busy:
        connection.post_next()
    await asyncio.gather(*(connection.done for connection in busy))
    return LoadResult(
        started_at=began, ended_at=time.perf_counter(), statuses=run.statuses, times=run.times, bodies=run.bodies
    )


@dataclass(slots=True, kw_only=True)
class _Run:
    """Shared by the connections of one run: the remaining requests, and the results."""

    waiting: Iterator[bytes]
    statuses: Counter[int] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One connection: posts the next request when the last one is answered, until none is left."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._body = b""
        self._posted_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a Transport for TCP
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._run.times.append(time.perf_counter() - self._posted_at)
        self._run.statuses[self._parser.get_status_code()] += 1
        self._run.bodies.append(self._body)
        self.post_next()

    def post_next(self) -> None:
        following = next(self._run.waiting, None)
        if following is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._posted_at = time.perf_counter()
        self._transport.write(following)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up in the middle"))


def encode_requests(posts: Iterable[tuple[str, str] | tuple[str, str, Mapping[str, str]]]) -> list[bytes]:
    """Return the requests for these paths, bodies and headers."""
    return [request(path, body.encode(), *headers) for path, body, *headers in posts]


def print_result(load: LoadResult) -> None:
    """Print a run's result for the parent process."""
    record = {"began": load.started_at, "ended": load.ended_at, "statuses": load.statuses, "times": load.times}
    print(json.dumps(record), flush=True)


def main(port: int, connections: int, file: Path) -> None:
    """Run the requests of *file* and print the result."""
    requests = encode_requests(json.loads(line) for line in file.read_text().splitlines())
    print_result(uvloop.run(post_all(port, requests, connections=connections)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
