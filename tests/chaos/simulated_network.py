"""An unreliable network. Every peer has good and bad periods, so that nothing fails for ever."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import Any

from chaos.simulated_connection import Handler, SimulatedConnection
from data.ssrf_urls import FORBIDDEN, NOT_PUBLIC

from receiver.net.http_client import IPAddress

_REBINDING_RATE = 0.1


def spawn_detached(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Start a task of the outside world: it continues when the service that caused it is dead."""
    return asyncio.get_running_loop().create_task(work, context=Context())


@asynccontextmanager
async def running_detached(activities: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run activities of the outside world. They are cancelled at the end."""
    tasks = [spawn_detached(each) for each in activities]
    yield
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class NetworkConditions:
    """Current conditions of one peer and the link to it."""

    down: bool = False
    latency: float = 0.05
    loss_rate: float = 0.0

    async def vary(self, rng: Random, *, mean_good_hours: float, mean_bad_hours: float) -> None:
        """Alternate good and bad periods with these mean lengths in hours."""
        while True:
            await asyncio.sleep(3600 * rng.expovariate(1 / mean_good_hours))
            kind = rng.random()
            self.down, self.loss_rate = kind < 0.5, 0.0 if kind < 0.5 else rng.random()
            self.latency = rng.choice([0.05, 1.0, 5.0, 30.0])
            await asyncio.sleep(3600 * rng.expovariate(1 / mean_bad_hours))
            self.recover()

    def recover(self) -> None:
        self.down, self.latency, self.loss_rate = False, 0.05, 0.02

    def make_good(self) -> None:
        self.down, self.latency, self.loss_rate = False, 0.01, 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    handler: Handler
    conditions: NetworkConditions
    forbidden: Sequence[IPAddress]


class SimulatedNetwork:
    """Names, addresses and peers. It replaces the system's resolver and sockets.

    Sometimes a name resolves to a forbidden address. *dialled* is called with every dialled address that has no peer.
    """

    def __init__(self, rng: Random, on_forbidden_dial: Callable[[str], None]) -> None:
        self._rng = rng
        self._on_forbidden_dial = on_forbidden_dial
        self._peers: dict[IPAddress, _Peer] = {}
        self._names: dict[str, IPAddress] = {}
        self._idle_sock, self._idle_peer = socket.socketpair()
        self.on_data_in_flight: Callable[[], None] = lambda: None
        self.rebinding_rate = _REBINDING_RATE

    def add_peer(
        self, host: str, address: str, handler: Handler, conditions: NetworkConditions, *, is_untrusted: bool = False
    ) -> None:
        """Add a peer. A peer named by a client may sometimes resolve to private networks."""
        traps = [ip_address(trap) for trap in (*FORBIDDEN, *(NOT_PUBLIC if is_untrusted else ()))]
        self._names[host] = ip_address(address)
        self._peers[self._names[host]] = _Peer(handler=handler, conditions=conditions, forbidden=traps)

    async def resolve(self, host: str) -> Sequence[IPAddress]:
        """Return a name's current addresses."""
        address = self._names[host]
        peer = self._peers[address]
        await asyncio.sleep(self._rng.expovariate(1 / peer.conditions.latency))
        if peer.conditions.down and self._rng.random() < 0.2:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if self._rng.random() >= self.rebinding_rate:
            return [address]
        trap = self._rng.choice(peer.forbidden)
        return self._rng.choice([[trap], [trap, address], [address, trap]])

    async def dial(self, address: str) -> None:
        """Connect to an address, or fail."""
        peer = self._peers.get(ip_address(address))
        if peer is None:
            self._on_forbidden_dial(address)
            raise ConnectionRefusedError
        if peer.conditions.down:
            await asyncio.sleep(self._rng.choice([0.0, 2.0, 3600.0]) * self._rng.random())
            raise ConnectionRefusedError

    def connection(self, sock: socket.socket, address: str, protocol: asyncio.Protocol) -> SimulatedConnection:
        """Return the open connection."""
        peer = self._peers[ip_address(address)]
        return SimulatedConnection(
            protocol,
            peer.handler,
            rng=self._rng,
            sock=sock,
            idle_sock=self._idle_sock,
            conditions=peer.conditions,
            on_data_in_flight=self.on_data_in_flight,
        )

    def close(self) -> None:
        """Return the resources to the system."""
        self._idle_sock.close()
        self._idle_peer.close()


async def repeat_randomly(rng: Random, hours: float, do: Callable[[], Awaitable[None]]) -> None:
    """Start something at random times with this mean interval in hours, even if the last run has not ended."""
    while True:
        await asyncio.sleep(3600 * rng.expovariate(1 / hours))
        spawn_detached(_run(do))


async def _run(do: Callable[[], Awaitable[None]]) -> None:
    await do()
