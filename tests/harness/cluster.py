"""Several `kling-receiver serve` processes on one PostgreSQL database, behind a small balancer of connections."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from harness.raw_http import http_request
from harness.running_service import Receiver
from harness.waiting import wait_until

from receiver.store.packing import unpack

START_NUMBER = "LIFE"
STARTS_OF_A_NODE = 1000
"""The numbers of one node's starts are below this: with them the sink knows which process has sent a delivery."""

TOKEN = "the-admin-token-of-every-node"
_CHUNK = 64 * 1024


class Balancer:
    """Gives each connection to the next live port. It knows no HTTP, as a balancer of TCP connections."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        self.url = ""
        self._next = 0
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._relays:
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            async with asyncio.timeout(2):
                there = await self._connect()
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the relay ends with its connections
        finally:
            writer.close()
            self._relays.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self.ports:
            port = self.ports[self._next % len(self.ports)]
            self._next += 1
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """A node that was ended, and when another node did its duty. Both times are of the monotonic clock."""

    node: Receiver
    ended_at: float
    taken_at: float

    @property
    def seconds(self) -> float:
        """How long no node did the duty."""
        return round(self.taken_at - self.ended_at, 1)


class Cluster:
    """Nodes on one database. ``public`` and ``admin`` are the balancer's addresses."""

    def __init__(
        self,
        folder: Path,
        url: str,
        config: str,
        *,
        size: int,
        environ: Mapping[str, str] | None = None,
        environs: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """*environ* is for all nodes, *environs* has one more for each node."""
        self.url = url
        own = environs or [{}] * size
        self.nodes = [
            self._node(folder, f"node-{number}", config, {**(environ or {}), **own[number - 1]})
            for number in range(1, size + 1)
        ]
        self._public = Balancer([_port(node.public) for node in self.nodes])
        self._admin = Balancer([_port(node.admin) for node in self.nodes])
        self.token = TOKEN

    def _node(self, folder: Path, name: str, config: str, environ: Mapping[str, str] | None) -> Receiver:
        own = folder / name
        own.mkdir()
        store = f'[store]\nurl = "{self.url}"\nnode = "{name}"\n'
        text = config.replace("[admin]\n", f'[admin]\ntoken = "{TOKEN}"\n')
        return Receiver(own, store + text, environ=environ)

    @property
    def public(self) -> str:
        """The balancer's public address."""
        return self._public.url

    @property
    def admin(self) -> str:
        """The balancer's admin address."""
        return self._admin.url

    async def start(self) -> None:
        """Start the balancer and all nodes, and wait until one of them does each duty."""
        await self._public.start()
        await self._admin.start()
        for number, node in enumerate(self.nodes, 1):
            text = node.config_path.read_text()
            node.config_path.write_text(text.replace('url = "' + node.public, 'url = "' + self.public))
            node.environ[START_NUMBER] = str(number * STARTS_OF_A_NODE)
            node.spawn()
        for node in self.nodes:
            await node.wait_until_ready()
        await wait_until(self._has_all_duties, seconds=20, interval=0.1)

    async def stop(self) -> None:
        """Kill the nodes and stop the balancer."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()
        await self._public.stop()
        await self._admin.stop()

    def restart(self, node: Receiver) -> None:
        """Start a node again that was killed."""
        node.environ[START_NUMBER] = str(int(node.environ[START_NUMBER]) + 1)
        node.spawn()

    async def holder(self, duty: str) -> Receiver | None:
        """Return the node that does a duty now, by the database."""
        found = await self.fetch("SELECT node FROM leases WHERE duty = $1 AND until > micros_now()", duty)
        return next((node for node in self.nodes if found and node.folder.name == found[0][0]), None)

    async def wait_for_holder(self, duty: str) -> Receiver:
        """Return the node that does a duty, which may be changing hands."""
        found: list[Receiver] = []

        async def is_held() -> bool:
            node = await self.holder(duty)
            found[:] = [] if node is None else [node]
            return bool(found)

        await wait_until(is_held, seconds=30, interval=0.05)
        return found[0]

    async def kill_holder(self, duty: str) -> Takeover:
        """Kill the node that does a duty, and start it again once another node does it."""
        killed = await self.wait_for_holder(duty)
        killed.kill()
        takeover = await self.wait_for_takeover(duty, killed)
        self.restart(killed)
        return takeover

    async def wait_for_takeover(self, duty: str, node: Receiver) -> Takeover:
        """Wait until another node does the duty of a node that has just been killed or stopped."""
        ended_at = time.monotonic()

        async def is_replaced() -> bool:
            return await self.holder(duty) not in (None, node)

        await wait_until(is_replaced, seconds=30, interval=0.05)
        return Takeover(node=node, ended_at=ended_at, taken_at=time.monotonic())

    def dead_nodes(self) -> list[str]:
        """Return the names of the nodes whose process does not run."""
        return [node.folder.name for node in self.nodes if node.process is None or node.process.poll() is not None]

    async def _has_all_duties(self) -> bool:
        rows = await self.fetch("SELECT count(*) FROM leases WHERE until > micros_now()")
        return bool(rows[0][0] == 4)

    async def fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read rows of the database."""
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read rows of the database without the running loop. ``UNPACK`` works as in the tests of SQLite."""
        found = asyncio.run(self.fetch(query.replace("UNPACK(body)", "body")))
        return [tuple(unpack(value) if isinstance(value, bytes) else value for value in row) for row in found]

    async def post(self, path: str, body: bytes, *, node: Receiver | None = None) -> Any:
        """Post to the admin listener of a node, or of any."""
        base = self.admin if node is None else node.admin
        return await http_request("POST", f"{base}{path}", body, {"authorization": f"Bearer {TOKEN}"})


@contextlib.asynccontextmanager
async def a_cluster(folder: Path, url: str, config: str, *, size: int = 3, **more: Any) -> AsyncIterator[Cluster]:
    """Run nodes on the database at *url*."""
    cluster = Cluster(folder, url, config, size=size, **more)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
