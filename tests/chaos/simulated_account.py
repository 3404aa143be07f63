"""An account of Kling's in virtual time: the simulator, reached without sockets, which notes when slots are idle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
from chaos.simulated_host import GoneError, Machine, ask
from chaos.simulated_network import outside
from chaos.virtual_time import VirtualClock

from receiver.kling.simulator import Options, Simulator
from receiver.kling.simulator.api import Api
from receiver.kling.simulator.tasks import Task
from receiver.net.http_client import Reply

HOST = "http://api.klingai.com"
_ONE_WAY = 0.05
_TOO_FAST = 1302


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which a slot was idle though jobs waited: how long, and how often Kling had said that it is too much.

    It counts from the last job that Kling took: what it says before a slot gets free still keeps others away from it.
    """

    seconds: float
    too_fast: int


class Account(Simulator):
    """Knows how many jobs are to come, and so when a slot is idle that one of them could have had."""

    def __init__(self, options: Options, *, clock: VirtualClock, jobs: int) -> None:
        super().__init__(options, clock=clock, rng=Random(7), base_url=HOST)
        self.gaps: list[Gap] = []
        self.most = 0
        self.refusals: list[int] = []
        self._jobs = jobs
        self._jobs_wait = False
        self._idle_since: datetime | None = None
        self._refused_before = self._refused_until_taken = 0

    def open_for_business(self) -> None:
        """Have all jobs handed in from now on: a slot that is idle is one too many."""
        self._jobs_wait = True
        self._look()

    def _remember(self, task: Task) -> None:
        super()._remember(task)
        self._refused_until_taken = len(self.refusals)
        self._look()

    def _end(self, task: Task) -> None:
        super()._end(task)
        self._look()

    def _look(self) -> None:
        used = self._used["image"]
        self.most = max(self.most, used)
        is_idle = self._jobs_wait and used < self.options.image_slots and self.counts["created"] < self._jobs
        if is_idle and self._idle_since is None:
            self._idle_since, self._refused_before = self.clock.now(), self._refused_until_taken
        elif not is_idle and self._idle_since is not None:
            too_fast = self.refusals[self._refused_before :].count(_TOO_FAST)
            self.gaps.append(Gap((self.clock.now() - self._idle_since).total_seconds(), too_fast))
            self._idle_since = None


@dataclass(slots=True)
class Way:
    """Leads to the account and back; what was sent arrives, whatever becomes of the sender."""

    app: Any = None
    refusals: list[int] = field(default_factory=list)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        total: timedelta,  # noqa: ARG002 -- whoever is asked here answers
        limit: int,  # noqa: ARG002 -- with little
    ) -> Reply:
        """Carry a request there, and the answer back."""
        parts = urlsplit(url)
        return await asyncio.shield(outside(self._carry(method, parts.path, parts.query, dict(headers or {}), content)))

    async def _carry(self, method: str, path: str, query: str, headers: dict[str, str], content: bytes) -> Reply:
        await asyncio.sleep(_ONE_WAY)
        answer = await ask(self.app, method, path, headers, content, query=query)
        if answer.status == 429:
            self.refusals.append(httpx.Response(200, content=answer.body).json()["code"])
        await asyncio.sleep(_ONE_WAY)
        return Reply(status=answer.status, headers=answer.headers, body=answer.body)

    async def aclose(self) -> None:
        """Nothing is ever open."""


class _Courier(httpx.AsyncBaseTransport):
    """Brings callbacks to the machine; nobody opens while it is down."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = {"host": "hooks.test", "content-type": "application/json"}
        await asyncio.sleep(_ONE_WAY)
        try:
            answer = await self._machine.call(
                "public", "POST", request.url.path, headers=headers, body=await request.aread()
            )
        except GoneError as exc:
            raise httpx.ConnectError("nobody listens") from exc
        return httpx.Response(answer.status, content=answer.body)


@asynccontextmanager
async def an_account(machine: Machine, way: Way, *, jobs: int, **options: Any) -> AsyncIterator[Account]:
    """Run an account that the machine reaches by *way*, for so many jobs."""
    read = Options.read({"check_images": False} | options)
    account = Account(read, clock=machine.clock, jobs=jobs)
    way.app, account.refusals = Api(account).app(), way.refusals
    async with account, httpx.AsyncClient(transport=_Courier(machine)) as client:
        account._courier._clients |= dict.fromkeys((False, True), client)
        running = asyncio.create_task(account.run())
        try:
            yield account
        finally:
            account.stop()
            await running
