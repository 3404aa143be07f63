"""A bad network, and weather: every side's troubles come in spells, so that nothing is ever broken for good."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from receiver.errors import NoAnswer, NotSent
from receiver.outbound import Reply

Serve: TypeAlias = Callable[[str, str, dict[str, str], bytes], Reply]
"""What a peer does with a request that has arrived: method, path, headers, body."""

Watch: TypeAlias = Callable[[dict[str, str]], AbstractContextManager[None]]


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


class WayOut:
    """What stands in for the service's connections: peers by their host's name, each with its weather."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._peers: dict[str, tuple[Serve, Weather, Watch]] = {}
        self.on_the_way: Callable[[], None] = lambda: None

    def connect(self, host: str, serve: Serve, weather: Weather, watch: Watch = lambda _: nullcontext()) -> None:
        """Have a peer; *watch* goes along with each request of it for as long as somebody waits for its answer."""
        self._peers[host] = (serve, weather, watch)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        total: timedelta,
        limit: int,  # noqa: ARG002  # no peer here says more than a little
    ) -> Reply:
        """Carry a request over, or lose it, or lose its answer."""
        host, path = urlsplit(url).netloc, urlsplit(url)._replace(scheme="", netloc="").geturl()
        serve, weather, watch = self._peers[host]
        with watch(dict(headers or {})):
            return await self._carry(
                lambda: serve(method, path, dict(headers or {}), content), weather, total.total_seconds()
            )

    async def _carry(self, serve: Callable[[], Reply], weather: Weather, patience: float) -> Reply:
        if weather.down:
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            raise NotSent("refused the connection.")
        there, back = (self._rng.expovariate(1 / weather.latency) for _ in range(2))
        if there >= patience:  # what arrives only when nobody waits any more is what a bad peer makes of it, not we
            await asyncio.sleep(patience)
            raise NoAnswer("did not take the request in time.")
        arriving = outside(_later(there, serve))
        lost = self._rng.random() < weather.losing
        self.on_the_way()
        await asyncio.sleep(min(patience, there + back))
        if lost or there + back >= patience:
            raise NoAnswer("took the request and did not answer.")
        return await asyncio.shield(arriving)

    async def aclose(self) -> None:
        """Nothing is ever open."""


async def _later(seconds: float, do: Callable[[], Reply]) -> Reply:
    await asyncio.sleep(seconds)
    return do()


async def sometimes(rng: Random, hours: float, do: Callable[[], Awaitable[None]]) -> None:
    """Do something now and then, on average once in so many hours, whether the last time has ended or not."""
    while True:
        await asyncio.sleep(3600 * rng.expovariate(1 / hours))
        outside(_awaited(do))


async def _awaited(do: Callable[[], Awaitable[None]]) -> None:
    await do()
