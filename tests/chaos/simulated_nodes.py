"""Several nodes of the service on one database, in virtual time: each a process that can be killed, frozen or cut off.

A balancer gives each request to one of the nodes that accept connections.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from chaos.simulated_database import DatabaseLoop
from chaos.simulated_host import HOST, AsgiResponse, HostDownError, SimulatedHost
from chaos.virtual_time import VirtualClock

from receiver.domain.clock import AdjustedClock
from receiver.domain.errors import StoreUnavailable
from receiver.service import bootstrap

CLIENT_SECONDS = 45.0
"""How long a client waits for its answer."""

_SESSION_SECONDS = 4.0
"""The database ends the session of a process that stops in the middle of a transaction: the service wants it so."""


class NodeClock(AdjustedClock):
    """The clock of a node, which may be wrong, moved to that of the database."""

    def __init__(self) -> None:
        self._own = HOST.get().clock

    def now(self) -> datetime:
        """Return the time of the database, as far as this node knows it."""
        return self._own.now() + self.offset

    def monotonic(self) -> float:
        """Return the elapsed seconds."""
        return self._own.monotonic()


@dataclass(slots=True)
class SimulatedNode(SimulatedHost):
    """One node. Its name is that of its settings."""

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.settings.store.node

    @property
    def is_up(self) -> bool:
        """Whether the node accepts connections; also a frozen one does."""
        return self._is_serving.is_set()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the outside world of all nodes."""
        SimulatedHost.install(self, patch)
        patch.setattr(bootstrap, "AdjustedClock", NodeClock)

    async def crash(self) -> None:
        """End the node like kill -9: the database rolls back what is not committed."""
        _loop().kill(self.incarnation)
        await SimulatedHost.crash(self)

    async def freeze(self, seconds: float) -> None:
        """Stop the node like SIGSTOP, and continue it later."""
        loop, owner = _loop(), self.incarnation
        loop.freeze(owner)
        await asyncio.sleep(min(seconds, _SESSION_SECONDS))
        if seconds > _SESSION_SECONDS:
            loop.end_sessions(owner)
            await asyncio.sleep(seconds - _SESSION_SECONDS)
        loop.thaw(owner)

    async def cut_off(self, seconds: float) -> None:
        """Cut the connections to the database, and refuse new ones for a while."""
        loop, owner = _loop(), self.incarnation
        loop.cut_off.add(owner)
        loop.cut(owner)
        await asyncio.sleep(seconds)
        loop.cut_off.discard(owner)


def _loop() -> DatabaseLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, DatabaseLoop)
    return loop


@dataclass(slots=True)
class SimulatedCluster:
    """The nodes behind a balancer. ``clock`` is the clients' own, which is right."""

    nodes: list[SimulatedNode]
    clock: VirtualClock
    rng: Random

    async def call(
        self, listener: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b""
    ) -> AsgiResponse:
        """Send a request to any node that accepts connections. Raises HostDownError if there is no answer in time."""
        up = [node for node in self.nodes if node.is_up]
        if not up:
            raise HostDownError
        node = self.rng.choice(up)
        call = asyncio.create_task(node.call(listener, method, path, headers=headers, body=body))
        done, _ = await asyncio.wait([call], timeout=CLIENT_SECONDS)
        if not done:
            call.add_done_callback(_forget)
            raise HostDownError
        return call.result()


def _forget(call: "asyncio.Task[Any]") -> None:
    """Take the answer that no client waits for."""
    with suppress(HostDownError, asyncio.CancelledError):
        call.result()


def node_clock(loop: DatabaseLoop, offset: timedelta) -> VirtualClock:
    """Return a machine's clock that is wrong."""
    clock = VirtualClock(loop)
    clock.offset = offset
    return clock


START_ERRORS = (StoreUnavailable, TimeoutError)
"""A node that starts while the database is away starts again."""
