"""Callers who post callbacks as Kling does, at a pace, through every crash; and the audit of what was promised."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from processes import Receiver, Sink, a_config, a_push, a_webhook_route
from support import until
from wire import Answer, Wire

WORDS = ("submitted", "processing", "succeed")
CONCURRENCY = 8
LIFE = "LIFE"
"""The variable that numbers the starts of a receiver; its webhook says it, so that a sink knows which one speaks."""

_BROKEN = (OSError, asyncio.IncompleteReadError)
_AGAIN = 0.02  # seconds until a caller tries a receiver again that was not there


def a_config_for_traffic(sink: Sink) -> str:
    """A configuration that trusts every callback and sends every event to *sink*."""
    route = a_webhook_route(
        sink, extra=f'on = ["*"]\nconcurrency = {CONCURRENCY}', webhook=f'headers = {{ x-life = "env:{LIFE}" }}'
    )
    return a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n' + route)


@dataclass(slots=True)
class Traffic:
    """What callers have sent so far, and what was said to it.

    ``promised`` are the bodies answered with 200; ``broken`` counts requests that got no answer, ``refused`` the
    connections that could not be made. Callers keep their connections, or make one for each callback.
    """

    receiver: Receiver
    per_second: int = 250
    callers: int = 8
    keeps: bool = True
    promised: set[tuple[str, bytes]] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    refused: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: count(867283741759111202))

    async def run(self, stop: asyncio.Event) -> None:
        """Mint callback URLs and post each task's news to them, in order, until *stop*."""
        async with asyncio.TaskGroup() as callers:
            for _ in range(self.callers):
                callers.create_task(self._call(stop))

    async def goes_on(self, count: int) -> None:
        """Wait until so many more callbacks are acknowledged."""
        enough = len(self.promised) + count
        await until(lambda: len(self.promised) >= enough, within=60)

    async def _call(self, stop: asyncio.Event) -> None:
        pace, loop = self.callers / self.per_second, asyncio.get_running_loop()
        token = {"authorization": f"Bearer {self.receiver.token}"}
        public, admin = _Line(self, self.receiver.public), _Line(self, self.receiver.admin, token)
        next_at = loop.time()
        while not stop.is_set():
            made = await admin.insist("/api/callback-urls", b"{}", stop, good=201)
            if made is None:
                break
            task, path = made.json()["task"]["id"], urlsplit(made.json()["callback_url"]).path
            number = str(next(self._numbers))
            for word in WORDS:
                body = a_push(word, task_id=number)
                if await public.insist(path, body, stop, good=200) is None:
                    break
                self.promised.add((task, body))
                next_at = max(next_at + pace, loop.time() - 1)
                await asyncio.sleep(max(0.0, next_at - loop.time()))
        public.hang_up()
        admin.hang_up()


@asynccontextmanager
async def calling(receiver: Receiver, *, per_second: int = 250) -> AsyncIterator[Traffic]:
    """Post callbacks until the end, whatever the answers."""
    traffic, stop = Traffic(receiver, per_second=per_second), asyncio.Event()
    task = asyncio.create_task(traffic.run(stop))
    try:
        yield traffic
    finally:
        stop.set()
        await task


@dataclass(slots=True)
class _Line:
    """One caller's connection, made anew when it breaks."""

    traffic: Traffic
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    wire: Wire | None = None

    async def insist(self, path: str, body: bytes, stop: asyncio.Event, *, good: int) -> Answer | None:
        """Post until it is taken; None when told to stop before that. Other answers are for the test to judge."""
        while not stop.is_set():
            try:
                if self.wire is None:
                    self.wire = await Wire.open(self.url, headers=self.headers)
            except OSError:
                self.traffic.refused += 1
                await asyncio.sleep(_AGAIN)
                continue
            try:
                answer = await self.wire.ask("POST", path, body)
            except _BROKEN:
                self.traffic.broken += 1
                self.hang_up()
                await asyncio.sleep(_AGAIN)
                continue
            self.traffic.statuses[answer.status] += 1
            if not self.traffic.keeps:
                self.hang_up()
            if answer.status == good:
                return answer
            await asyncio.sleep(_AGAIN)
        return None

    def hang_up(self) -> None:
        if self.wire is not None:
            self.wire.cut()
        self.wire = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What became of what callers were promised."""

    promised: int
    lost: int
    kept: int
    events: int
    undelivered: int
    unknown: int
    twice_in_one_life: int
    again: Counter[int]

    @classmethod
    def of(cls, traffic: Traffic, sink: Sink) -> "Audit":
        """Compare the promises with what is in the store, and the store with what the sink has got."""
        rows = traffic.receiver.rows
        kept = set(rows("SELECT task_id, body FROM pushes WHERE source = 'callback'"))
        events = {id_: (task, type_) for id_, task, type_ in rows("SELECT id, task_id, type FROM events")}
        said = {(task, f"task.{json.loads(body)['task_status']}") for task, body in traffic.promised}
        delivered = {id_ for (id_,) in rows("SELECT event_id FROM deliveries WHERE status = 'delivered'")}
        assert len(set(events.values())) == len(events), "an event stands twice"
        lives = _lives(sink)
        return cls(
            promised=len(traffic.promised),
            lost=len(traffic.promised - kept) + len(said - set(events.values())),
            kept=len(kept),
            events=len(events),
            undelivered=len(events.keys() - (delivered & lives.keys())),
            unknown=len(lives.keys() - events.keys()) + sum(_tells_otherwise(sink, events)),
            twice_in_one_life=sum(len(set(each)) < len(each) for each in lives.values()),
            again=Counter(life for each in lives.values() for life in each[:-1]),
        )


def _lives(sink: Sink) -> dict[str, list[int]]:
    """Tell for each event in which of the receiver's lives it was received."""
    lives: dict[str, list[int]] = {}
    for headers in sink.headers:
        lives.setdefault(headers["webhook-id"], []).append(int(headers["x-life"]))
    return lives


def _tells_otherwise(sink: Sink, events: dict[str, tuple[Any, ...]]) -> Sequence[bool]:
    """Tell of each body whether it is about another event than its webhook-id names."""
    return [
        (body["data"]["task"]["id"], body["type"]) != events.get(id_)
        for id_, bodies in sink.received.items()
        for body in bodies
    ]
