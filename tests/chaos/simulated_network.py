"""A bad network, and weather: every side's troubles come in spells, so that nothing is ever broken for good."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import Any

from chaos.simulated_connection import Line, Serve
from data.ssrf_urls import NEVER, NOT_PUBLIC

from receiver.net.http_client import IPAddress

_MISLED = 0.1


def outside(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Do something in the world: it goes on when the service that caused it is dead."""
    return asyncio.get_running_loop().create_task(work, context=Context())


@dataclass(slots=True)
class Weather:
    """How one peer and the way to it are just now."""

    down: bool = False
    latency: float = 0.05
    losing: float = 0.0

    async def change(self, rng: Random, *, calm: float, foul: float) -> None:
        """Have fair and foul spells in turn, of so many hours on average."""
        while True:
            await asyncio.sleep(3600 * rng.expovariate(1 / calm))
            kind = rng.random()
            self.down, self.losing = kind < 0.5, 0.0 if kind < 0.5 else rng.random()
            self.latency = rng.choice([0.05, 1.0, 5.0, 30.0])
            await asyncio.sleep(3600 * rng.expovariate(1 / foul))
            self.clear_up()

    def clear_up(self) -> None:
        self.down, self.latency, self.losing = False, 0.05, 0.02

    def be_fine(self) -> None:
        self.down, self.latency, self.losing = False, 0.01, 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    serve: Serve
    weather: Weather
    traps: Sequence[IPAddress]


class Internet:
    """Names, addresses and who is there. It stands where the system's resolver and its sockets are in the world.

    Now and then a name leads where its owner has no right to be: *dialled* is told of every address that is tried
    and that nobody was given.
    """

    def __init__(self, rng: Random, dialled: Callable[[str], None]) -> None:
        self._rng = rng
        self._dialled = dialled
        self._peers: dict[IPAddress, _Peer] = {}
        self._names: dict[str, IPAddress] = {}
        self._quiet, self._end = socket.socketpair()
        self.on_the_way: Callable[[], None] = lambda: None
        self.misled = _MISLED

    def connect(self, host: str, address: str, serve: Serve, weather: Weather, *, is_strangers: bool = False) -> None:
        """Have a peer; where strangers named it, its name may also be made to lead into private networks."""
        traps = [ip_address(trap) for trap in (*NEVER, *(NOT_PUBLIC if is_strangers else ()))]
        self._names[host] = ip_address(address)
        self._peers[self._names[host]] = _Peer(serve=serve, weather=weather, traps=traps)

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        """Give a name's addresses, as they are just now."""
        address = self._names[host]
        peer = self._peers[address]
        await asyncio.sleep(self._rng.expovariate(1 / peer.weather.latency))
        if peer.weather.down and self._rng.random() < 0.2:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if self._rng.random() >= self.misled:
            return [address]
        trap = self._rng.choice(peer.traps)
        return self._rng.choice([[trap], [trap, address], [address, trap]])

    async def dial(self, address: str) -> None:
        """Have a connection made to an address, or not."""
        peer = self._peers.get(ip_address(address))
        if peer is None:
            self._dialled(address)
            raise ConnectionRefusedError
        if peer.weather.down:
            await asyncio.sleep(self._rng.choice([0.0, 2.0, 3600.0]) * self._rng.random())
            raise ConnectionRefusedError

    def line(self, sock: socket.socket, address: str, protocol: asyncio.Protocol) -> Line:
        """Give the connection that was made."""
        peer = self._peers[ip_address(address)]
        return Line(
            protocol,
            peer.serve,
            rng=self._rng,
            sock=sock,
            quiet=self._quiet,
            way=peer.weather,
            on_the_way=self.on_the_way,
        )

    def close(self) -> None:
        """Give the system back what it lent."""
        self._quiet.close()
        self._end.close()


async def sometimes(rng: Random, hours: float, do: Callable[[], Awaitable[None]]) -> None:
    """Do something now and then, on average once in so many hours, whether the last time has ended or not."""
    while True:
        await asyncio.sleep(3600 * rng.expovariate(1 / hours))
        outside(_awaited(do))


async def _awaited(do: Callable[[], Awaitable[None]]) -> None:
    await do()
