"""Callers who post callbacks as Kling does, at a pace, through every crash; and the audit of what was promised."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.raw_http import Answer, Wire
from harness.running_service import Receiver, Sink, a_config, a_push, a_webhook_route
from harness.support import until

WORDS = ("submitted", "processing", "succeed")
CONCURRENCY = 8
LIFE = "LIFE"
"""The variable that numbers the starts of a receiver; its routes say it, so that a sink knows which one speaks."""

MARK = "marked"
_MARKED = 25  # of so many tasks one is marked

_BROKEN = (OSError, asyncio.IncompleteReadError)
_AGAIN = 0.02  # seconds until a caller tries a receiver again that was not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a route asks for: all events, or ends alone; of all tasks, or of marked ones alone."""

    name: str
    ends: bool = False
    marked: bool = False
    script: bool = False

    def wants(self, type_: str, task_id: str, marked: set[str]) -> bool:
        """Tell whether an event is for the route."""
        return (not self.ends or type_ == "task.succeed") and (not self.marked or task_id in marked)

    def written(self, sink: Sink, folder: Path | None) -> str:
        """Write the route for a configuration."""
        extra = f'on = ["{"succeed" if self.ends else "*"}"]\nconcurrency = {CONCURRENCY}\n'
        if self.marked:
            extra += f"where = \"task.label == '{MARK}'\"\n"
        if not self.script:
            says = f'headers = {{ x-route = "{self.name}", x-life = "env:{LIFE}" }}'
            return a_webhook_route(sink, name=self.name, extra=extra, webhook=says)
        assert folder is not None, "a script needs a place to write to"
        path = folder / "script.sh"
        path.write_text(f'#!/bin/sh\necho "$KLING_EVENT_ID ${LIFE}" >> "$OUT"\n')
        path.chmod(0o755)
        env = f'OUT = "{_written(folder)}", {LIFE} = "env:{LIFE}"'
        return f'[[routes]]\nname = "{self.name}"\n{extra}script = {{ command = ["{path}"], env = {{ {env} }} }}\n'


ONE_WEBHOOK = (Wish(name="all"),)
THREE_AND_A_SCRIPT = (
    Wish(name="all"),
    Wish(name="ends", ends=True),
    Wish(name="marked", marked=True),
    Wish(name="script", ends=True, marked=True, script=True),
)


def a_config_for_traffic(sink: Sink, wishes: Sequence[Wish] = ONE_WEBHOOK, folder: Path | None = None) -> str:
    """A configuration that trusts every callback and sends each route to *sink* what it asks for.

    A script writes what it gets to a file in *folder*.
    """
    routes = "\n".join(wish.written(sink, folder) for wish in wishes)
    return a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n' + routes)


@dataclass(slots=True)
class Traffic:
    """What callers have sent so far, and what was said to it.

    ``promised`` are the bodies answered with 200, ``marked`` the tasks with a label; ``broken`` counts requests that
    got no answer, ``refused`` the connections that could not be made. Callers keep their connections, or make one for
    each callback.
    """

    receiver: Receiver
    per_second: int = 250
    callers: int = 8
    keeps: bool = True
    promised: set[tuple[str, bytes]] = field(default_factory=set)
    marked: set[str] = field(default_factory=set)
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
            number = next(self._numbers)
            label = MARK if number % _MARKED == 0 else None
            made = await admin.insist("/api/callback-urls", json.dumps({"label": label}).encode(), stop, good=201)
            if made is None:
                break
            task, path = made.json()["task"]["id"], urlsplit(made.json()["callback_url"]).path
            if label is not None:
                self.marked.add(task)
            for word in WORDS:
                body = a_push(word, task_id=str(number))
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
    """What became of what callers were promised.

    ``again`` counts what was sent another time in a later life, by its route and the life it was first sent in.
    """

    promised: int
    lost: int
    kept: int
    events: int
    deliveries: int
    undelivered: int
    unknown: int
    twice_in_one_life: int
    again: Counter[tuple[str, int]]

    @classmethod
    def of(
        cls, traffic: Traffic, sink: Sink, wishes: Sequence[Wish] = ONE_WEBHOOK, folder: Path | None = None
    ) -> "Audit":
        """Compare the promises with what is in the store, and the store with what the sink has got."""
        rows = traffic.receiver.rows
        kept = set(rows("SELECT task_id, body FROM pushes WHERE source = 'callback'"))
        events = {id_: (task, type_) for id_, task, type_ in rows("SELECT id, task_id, type FROM events")}
        said = {(task, f"task.{json.loads(body)['task_status']}") for task, body in traffic.promised}
        wanted = {
            (wish.name, id_)
            for id_, (task, type_) in events.items()
            for wish in wishes
            if wish.wants(type_, task, traffic.marked)
        }
        delivered = set(rows("SELECT route, event_id FROM deliveries WHERE status = 'delivered'"))
        assert len(set(events.values())) == len(events), "an event stands twice"
        lives = _lives(sink, folder)
        return cls(
            promised=len(traffic.promised),
            lost=len(traffic.promised - kept) + len(said - set(events.values())),
            kept=len(kept),
            events=len(events),
            deliveries=len(wanted),
            undelivered=len(wanted - (delivered & lives.keys())),
            unknown=len(lives.keys() - wanted) + sum(_tells_otherwise(sink, events)),
            twice_in_one_life=sum(len(set(each)) < len(each) for each in lives.values()),
            again=Counter((route, life) for (route, _), each in lives.items() for life in each[:-1]),
        )


def _lives(sink: Sink, folder: Path | None) -> Mapping[tuple[str, str], Sequence[int]]:
    """Tell for each route and event in which of the receiver's lives it was received."""
    said = [(headers["x-route"], headers["webhook-id"], headers["x-life"]) for headers in sink.headers]
    if folder is not None and _written(folder).exists():
        lines = map(str.split, _written(folder).read_text().splitlines())
        said += [("script", event, life) for event, life in lines]
    lives: dict[tuple[str, str], list[int]] = {}
    for route, event, life in said:
        lives.setdefault((route, event), []).append(int(life))
    return lives


def _written(folder: Path) -> Path:
    """Where a script writes down what it got."""
    return folder / "script.out"


def _tells_otherwise(sink: Sink, events: dict[str, tuple[Any, ...]]) -> Sequence[bool]:
    """Tell of each body whether it is about another event than its webhook-id names."""
    return [
        (body["data"].get("task", {}).get("id"), body["type"]) != events.get(id_)
        for id_, bodies in sink.received.items()
        for body in bodies
    ]
