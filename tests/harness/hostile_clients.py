"""Clients that misuse the public listener in every cheap way, each over a connection of its own."""

import asyncio
import contextlib
from collections import Counter, deque
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from data.grown_bodies import GROWN

from receiver.settings import Address

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
_MAX_HELD = 500  # silent connections at once; the listener has 400 places
_CONCURRENT = 32
_OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"


class HostileClients:
    """Sends *count* misuses to the listener, to an unknown token and to *known_path*'s valid one."""

    def __init__(self, address: Address, known_path: str, rng: Random) -> None:
        self.sent: Counter[str] = Counter()
        self._address = address
        self._paths = [known_path.encode(), b"/callbacks/a-guess-by-a-scanner"]
        self._rng = rng
        self._held: deque[asyncio.StreamWriter] = deque()
        self._misuses: dict[str, Callable[[bytes], bytes]] = {
            "silent": lambda _: b"",
            "half_head": lambda path: b"POST %s HTTP/1.1\r\nhost: localhost\r\nx-drip: " % path,
            "half_body": lambda path: _post(path, b"content-length: %d\r\n" % MIB) + b"[" * (MIB // 2),
            "tiny_chunks": lambda path: _post(path, b"transfer-encoding: chunked\r\n") + b"1\r\n[\r\n" * 15_000,
            "hostile_json": lambda path: _grown(path, self._rng.choice(list(GROWN))),
            "h2c": lambda path: _post(path, _OFFER + b"content-length: 2\r\n") + b"[]",
            "pipelined": lambda path: (_post(path, b"content-length: 2\r\n") + b"[]") * 40,
            "half_closed": lambda path: _post(path, b"content-length: 2\r\n") + b"[]",
        }

    async def attack(self, count: int, *, per_second: float = 100) -> None:
        """Send *count* misuses of all kinds in random order, slowly enough to leave this process time."""
        names = list(self._misuses)
        turns = asyncio.Semaphore(_CONCURRENT)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await turns.acquire()
                await asyncio.sleep(1 / per_second)
                name = names[number] if number < len(names) else self._rng.choice(names)
                group.create_task(self._misuse(name)).add_done_callback(lambda _: turns.release())

    async def leave(self) -> None:
        """Close the connections that are still open."""
        for writer in self._held:
            writer.transport.abort()
        self._held.clear()
        await asyncio.sleep(0)

    async def _misuse(self, name: str) -> None:
        self.sent[name] += 1
        source = (f"127.0.{self._rng.randrange(5, 9)}.{self._rng.randrange(1, 255)}", 0)
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection(self._address.host, self._address.port, local_addr=source)
            self._hold(writer)
            writer.write(self._misuses[name](self._rng.choice(self._paths)))
            if name == "half_closed":
                writer.write_eof()
            async with asyncio.timeout(0.2 if name in ("silent", "half_head", "half_body") else 2):
                await reader.read(MIB)

    def _hold(self, writer: asyncio.StreamWriter) -> None:
        self._held.append(writer)
        if len(self._held) > _MAX_HELD:
            oldest = self._held.popleft()
            oldest.transport.abort()


def _post(path: bytes, fields: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: localhost\r\n%s\r\n" % (path, fields)


@lru_cache
def _grown(path: bytes, part: str) -> bytes:
    """Return a request with JSON of nearly 1 MiB that may be slow to read."""
    body = GROWN[part](MIB - 16 * 1024)
    return _post(path, b"content-length: %d\r\n" % len(body)) + body
