"""An archiver over a real store and real sockets, and a clock that stands still."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

from harness.factories import a_reading, a_task
from harness.http_peers import Answer, Peer, response, sending, serving
from harness.support import FakeClock, until

from receiver.archive.archiver import Archiver, Copies, Renewal
from receiver.archive.fetcher import Bounds, Fetcher
from receiver.archive.partial_file import RESERVE
from receiver.domain.clock import Ids
from receiver.domain.errors import NoAnswer
from receiver.domain.model import Archiving, Event, Json, Source, Task, TaskState, Verified
from receiver.domain.notifier import Bells
from receiver.events.alerts import Alerts
from receiver.events.factory import Announcer
from receiver.events.routing import compile_routes
from receiver.net.http_client import Outbound
from receiver.net.ssrf_guard import PublicGuard
from receiver.settings import RouteSettings, WebhookSettings
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.store import SqliteStore

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
JPG = b"\xff\xd8\xff" + bytes(5000)
A_PNG = response(200, PNG, content_type="image/png")
LOOPBACK = PublicGuard([ip_network("127.0.0.0/8")])


class Workshop:
    """A store, an archiver and a clock that stands still."""

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.folder = folder / "results"
        self.clock = FakeClock()
        self.ids = Ids(self.clock)
        self.bells = Bells()
        routes = [
            RouteSettings(name="publish", webhook=WebhookSettings(url="https://app.example.com/")),
            RouteSettings(name="on-call", on=frozenset({"alert"}), webhook=WebhookSettings(url="https://a.example/")),
        ]
        self.announcer = Announcer(compile_routes(routes), self.ids, archive=True)
        self.free = 10 * RESERVE
        self.stop = asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self.renewal: Renewal | None = None
        self.copies: Copies | None = None
        self.outbound: Outbound | None = None

    async def succeeds(self, *urls: str, trusted: bool = True, **changes: Any) -> Event:
        """Let a task succeed with results at *urls*."""
        task = await self.task(**changes)
        images = tuple({"index": number, "url": url} for number, url in enumerate(urls))
        said = self.announcer.task_event(
            task,
            a_reading("succeed", result={"images": images}),
            b'{"task_status": "succeed"}',
            source=Source.CALLBACK,
            verified=Verified.API,
            at=self.clock.now(),
            trusted=trusted,
        )
        change = Change(events=[said.event], deliveries=said.deliveries)
        await self.store.apply(ById(id=task.id), lambda _task, _pending: change)
        self.bells.events.ring()
        return said.event

    async def task(self, **changes: Any) -> Task:
        task_id = self.ids.new("tsk")
        given = {
            "id": task_id,
            "external_task_id": task_id,
            "kling_id": None,
            "state": TaskState.SUCCEED,
            "due_at": None,
        }
        return await self.store.add(a_task(**given | {"state": TaskState.SUCCEED} | changes), b"")

    def start(
        self,
        *,
        guard: PublicGuard = LOOPBACK,
        bounds: Bounds | None = None,
        shelf: Any = None,
        free: Callable[[Path], int] | None = None,
    ) -> None:
        self.outbound = Outbound(user_agent="kling-receiver/test", guard=guard)
        self.archiver = Archiver(
            shelf or self.store,
            Fetcher(self.outbound, bounds=bounds, free=free or (lambda _: self.free)),
            self.folder,
            renewal=self.renewal,
            copies=self.copies,
            voice=Alerts(self.announcer, clock=self.clock),
            bells=self.bells,
            clock=self.clock,
            rng=Random(1),
        )
        self.running = asyncio.create_task(self.archiver.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        self.bells.ring()
        if self.running is not None:
            await self.running
        if self.outbound is not None:
            await self.outbound.aclose()
        self.stop = asyncio.Event()

    async def data(self, event: Event) -> Json:
        found = await self.store.event(event.id)
        assert found is not None
        data: Json = json.loads(found.envelope)["data"]
        return data

    async def stage(self, event: Event) -> Archiving | None:
        found = await self.store.event(event.id)
        assert found is not None
        return found.archiving

    async def settled(self, event: Event, stage: Archiving | None = None) -> Sequence[Json]:
        """Wait until an event has come to a stage; give its files."""

        async def is_there() -> bool:
            return await self.stage(event) is stage

        await until(is_there)
        assets: Sequence[Json] = (await self.data(event)).get("assets", [])
        return assets

    async def passes(self, event: Event, time: timedelta, fact: Callable[[], bool]) -> None:
        """Let the time pass until an event is so old, stopping wherever somebody waits for a moment."""
        end = event.created_at + time
        while self.clock.now() < end:
            step = await self.store.next_archiving(without=()) or end
            if step > self.clock.now():
                self.clock.advance(min(step, end) - self.clock.now())
            await asyncio.sleep(0.01)
        await until(fact)

    async def due(self, event: Event) -> dict[str, bool]:
        """Tell for each delivery of an event whether it may go out."""
        found = await self.store.deliveries(event_id=event.id)
        return {view.delivery.route: view.delivery.due_at <= self.clock.now() for view in found.items}

    async def alerts(self) -> list[tuple[str, Json]]:
        found = await self.store.events(limit=100)
        alerts = [event for event in reversed(found.items) if event.type.startswith("alert.")]
        return [(event.type.removeprefix("alert."), json.loads(event.envelope)["data"]) for event in alerts]

    def content(self, asset: Json) -> bytes:
        return Path(asset["path"]).read_bytes()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


class Kling:
    """Tells of pictures at the URLs it is given, and of none while it is told that it cannot say."""

    def __init__(self, *urls: str, silent: bool = False) -> None:
        self.urls = urls
        self.silent = silent
        self.asked: list[str] = []

    async def renew(self, task: Task) -> Mapping[str, Sequence[Json]]:
        self.asked.append(task.id)
        if self.silent:
            raise NoAnswer("Kling did not answer.")
        return {"images": [{"index": n, "url": url, "watermark_url": f"{url}&mark"} for n, url in enumerate(self.urls)]}


@contextlib.asynccontextmanager
async def a_workshop(folder: Path) -> AsyncIterator[Workshop]:
    """Open a workshop on a store of its own."""
    store = await SqliteStore.open(folder / "receiver.db")
    shop = Workshop(store, folder)
    yield shop
    await shop.end()
    await store.aclose()


@contextlib.asynccontextmanager
async def a_cdn(**answers: bytes | Answer) -> AsyncIterator[Peer]:
    """Serve files by the first part of their path; what is not there is 404."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = peer.requests[-1].line.split()[1].split("/")[1].partition("?")[0]
        given = answers.get(name, response(404))
        await (sending(given) if isinstance(given, bytes) else given)(reader, writer)

    async with serving(answer) as peer:
        yield peer


def cut_short(body: bytes, *, after: int, **headers: str) -> Answer:
    """Promise a body and break off in the middle of it."""
    whole = response(200, body, **headers)
    return sending(whole[: len(whole) - len(body) + after], then_close=True)
