"""A Kling account in virtual time: the simulator, reached without sockets, records when slots are idle."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
from chaos.simulated_host import HostDownError, SimulatedHost, asgi_request
from chaos.simulated_network import spawn_detached
from chaos.virtual_time import VirtualClock

from receiver.kling.simulator import Options, Simulator
from receiver.kling.simulator.api import Api
from receiver.kling.simulator.tasks import Task
from receiver.net.http_client import BeforeSend, HttpResponse

HOST = "http://api.klingai.com"
_LATENCY_SECONDS = 0.05
_RATE_LIMIT_CODE = 1302


@dataclass(frozen=True, slots=True)
class IdleGap:
    """A period in which a slot of a key was idle although its jobs waited: its length, and the 1302 answers before it.

    It counts from the moment of the last accepted job: earlier 1302 answers still delay the next create.
    """

    key: str
    seconds: float
    rate_limited: int


class SimulatedAccount(Simulator):
    """Knows how many jobs of each slot key are still to come, and so when a slot is idle that a job could use."""

    def __init__(self, options: Options, *, clock: VirtualClock, jobs: Mapping[str, int]) -> None:
        super().__init__(options, clock=clock, rng=Random(7), base_url=HOST)
        self.gaps: list[IdleGap] = []
        self.max_used: Counter[str] = Counter()
        self.created: Counter[str] = Counter()
        self.error_codes: list[int] = []
        self.rate_limited_at: list[float] = []
        self._jobs = jobs
        self._has_waiting_jobs = False
        self._idle_since: dict[str, tuple[datetime, float]] = {}
        self._last_accepted_at = 0.0

    def start_measuring(self) -> None:
        """Measure idle slots from now on: all jobs are submitted."""
        self._has_waiting_jobs = True
        for key in self._jobs:
            self._update_idle_gap(key)

    def _store(self, task: Task) -> None:
        super()._store(task)
        self._last_accepted_at = asyncio.get_running_loop().time()

    def _start(self, task: Task) -> None:
        super()._start(task)
        self.created[task.slot_key] += 1
        self._update_idle_gap(task.slot_key)

    def _finish(self, task: Task) -> None:
        super()._finish(task)
        self._update_idle_gap(task.slot_key)

    def _update_idle_gap(self, key: str) -> None:
        used = self.slots.used(key)
        self.max_used[key] = max(self.max_used[key], used)
        is_full = used >= self.slots.plan.limit(key)
        is_idle = self._has_waiting_jobs and not is_full and self.created[key] < self._jobs[key]
        if is_idle:
            self._idle_since.setdefault(key, (self.clock.now(), self._last_accepted_at))
        elif key in self._idle_since:
            since, accepted_at = self._idle_since.pop(key)
            too_fast = sum(at >= accepted_at for at in self.rate_limited_at)
            self.gaps.append(IdleGap(key, (self.clock.now() - since).total_seconds(), too_fast))


@dataclass(slots=True)
class InProcessHttpClient:
    """Connects the receiver with the account. A sent request always arrives, even if the sender dies."""

    app: Any = None
    error_codes: list[int] = field(default_factory=list)
    rate_limited_at: list[float] = field(default_factory=list)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        time_limit: timedelta,  # noqa: ARG002 -- the account always answers
        max_body: int,  # noqa: ARG002 -- answers are small
        reuse: bool = True,  # noqa: ARG002 -- there are no connections
        before_send: BeforeSend | None = None,
    ) -> HttpResponse:
        """Deliver a request, and return the answer."""
        if before_send is not None:
            await before_send()
        parts = urlsplit(url)
        return await asyncio.shield(
            spawn_detached(self._carry(method, parts.path, parts.query, dict(headers or {}), content))
        )

    async def _carry(self, method: str, path: str, query: str, headers: dict[str, str], content: bytes) -> HttpResponse:
        await asyncio.sleep(_LATENCY_SECONDS)
        answer = await asgi_request(self.app, method, path, headers, content, query=query)
        if answer.status == 429:
            self.error_codes.append(json.loads(answer.body)["code"])
            if self.error_codes[-1] == _RATE_LIMIT_CODE:
                self.rate_limited_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(_LATENCY_SECONDS)
        return HttpResponse(status=answer.status, headers=answer.headers, body=answer.body)

    async def aclose(self) -> None:
        """Do nothing: no connection is ever open."""


class _HostTransport(httpx.AsyncBaseTransport):
    """Delivers callbacks to the host; fails while the host is down."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = {"host": "hooks.test", "content-type": "application/json"}
        await asyncio.sleep(_LATENCY_SECONDS)
        try:
            answer = await self._host.call(
                "public", "POST", request.url.path, headers=headers, body=await request.aread()
            )
        except HostDownError as exc:
            raise httpx.ConnectError("the host is down") from exc
        return httpx.Response(answer.status, content=answer.body)


@asynccontextmanager
async def a_simulated_account(
    host: SimulatedHost, http_client: InProcessHttpClient, *, jobs: Mapping[str, int], **options: Any
) -> AsyncIterator[SimulatedAccount]:
    """Run an account for this many jobs by slot key."""
    read = Options.parse({"check_images": False} | options)
    account = SimulatedAccount(read, clock=host.clock, jobs=jobs)
    http_client.app = Api(account).app()
    account.error_codes, account.rate_limited_at = http_client.error_codes, http_client.rate_limited_at
    async with account, httpx.AsyncClient(transport=_HostTransport(host)) as client:
        account._callback_sender._clients |= dict.fromkeys((False, True), client)
        running = asyncio.create_task(account.run())
        try:
            yield account
        finally:
            account.stop()
            await running
