"""An archiver on a real store and real sockets, with a fake clock."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from harness.clock import FakeClock
from harness.factories import a_status_report, a_task
from harness.http_peers import Handler, Peer, http_peer, respond_with, response
from harness.sqlite_template import open_store
from harness.stored_events import check_stored_events
from harness.waiting import wait_until

from receiver.archive.fetcher import DownloadLimits, Fetcher
from receiver.archive.partial_file import MIN_FREE_BYTES
from receiver.domain.clock import Ids
from receiver.domain.errors import NoResponse
from receiver.domain.model import ArchiveState, Event, Json, Source, Task, TaskState, Verification
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import PublicGuard
from receiver.service.context import make_context
from receiver.service.wiring import build_archiver
from receiver.settings import ArchiveSettings, RouteSettings, Settings, WebhookSettings
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from receiver.archive.archiver import CopyTarget, UrlRefresher
    from receiver.archive.previews import Previews

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
JPG = b"\xff\xd8\xff" + bytes(5000)
A_PNG = response(200, PNG, content_type="image/png")
LOOPBACK = PublicGuard([ip_network("127.0.0.0/8")])


class ArchiveSystem:
    """A store, an archiver and a fake clock."""

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.folder = folder / "results"
        self.clock = FakeClock()
        self.ids = Ids(self.clock)
        routes = (
            RouteSettings(name="publish", webhook=WebhookSettings(url="https://app.example.com/")),
            RouteSettings(name="on-call", on=frozenset({"alert"}), webhook=WebhookSettings(url="https://a.example/")),
        )
        settings = Settings(routes=routes, archive=ArchiveSettings(dir=self.folder))
        kling: Any = None  # the archiver asks the test's own refresher
        self.context = make_context(settings, store, kling, clock=self.clock, ids=self.ids, rng=Random(1))
        self.notifiers = self.context.notifiers
        self.event_factory = self.context.event_factory
        self.free_bytes = 10 * MIN_FREE_BYTES
        self.stop = asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self.url_refresher: UrlRefresher | None = None
        self.copy_target: CopyTarget | None = None
        self.previews: Previews | None = None
        self.http_client: HttpClient | None = None

    async def succeed_task(self, *urls: str, trusted: bool = True, **changes: Any) -> Event:
        """Make a task succeed with results at *urls*."""
        task = await self.add_task(**changes)
        images = tuple({"index": number, "url": url} for number, url in enumerate(urls))
        routed = self.event_factory.task_event(
            task,
            a_status_report("succeed", result={"images": images}),
            b'{"task_status": "succeed"}',
            source=Source.CALLBACK,
            verified=Verification.API,
            at=self.clock.now(),
            trusted=trusted,
        )
        change = Change(events=[routed.event], deliveries=routed.deliveries)
        await self.store.tasks.apply(ById(id=task.id), lambda _task, _pending: change)
        self.notifiers.events.notify()
        return routed.event

    async def add_task(self, **changes: Any) -> Task:
        task_id = self.ids.new("tsk")
        given = {
            "id": task_id,
            "external_task_id": task_id,
            "kling_id": None,
            "state": TaskState.SUCCEED,
            "due_at": None,
        }
        return await self.store.tasks.add(a_task(**given | {"state": TaskState.SUCCEED} | changes), b"")

    def start(
        self,
        *,
        guard: PublicGuard = LOOPBACK,
        limits: DownloadLimits | None = None,
        archive_store: Any = None,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        self.http_client = HttpClient(user_agent="kling-receiver/test", guard=guard)
        self.archiver = build_archiver(
            self.context,
            Fetcher(self.http_client, limits=limits, free_space=free_bytes or (lambda _: self.free_bytes)),
            refresher=self.url_refresher,
            copy_target=self.copy_target,
            store=archive_store,
            previews=self.previews,
        )
        self.running = asyncio.create_task(self.archiver.run(self.stop))

    async def shut_down(self) -> None:
        self.stop.set()
        self.notifiers.notify_all()
        if self.running is not None:
            await self.running
        if self.http_client is not None:
            await self.http_client.aclose()
        self.stop = asyncio.Event()

    async def data(self, event: Event) -> Json:
        found = await self.store.catalog.event(event.id)
        assert found is not None
        data: Json = json.loads(found.envelope)["data"]
        return data

    async def archive_state(self, event: Event) -> ArchiveState | None:
        found = await self.store.catalog.event(event.id)
        assert found is not None
        return found.archiving

    async def wait_for_assets(self, event: Event, state: ArchiveState | None = None) -> Sequence[Json]:
        """Wait until an event reaches an archive state. Return its files."""

        async def is_there() -> bool:
            return await self.archive_state(event) is state

        await wait_until(is_there)
        assets: Sequence[Json] = (await self.data(event)).get("assets", [])
        return assets

    async def advance_to_age(self, event: Event, age: timedelta, condition: Callable[[], bool]) -> None:
        """Advance the clock until an event has this age, stopping at each due time."""
        end = event.created_at + age
        while self.clock.now() < end:
            step = await self.store.archive.next_due(exclude=()) or end
            if step > self.clock.now():
                self.clock.advance(min(step, end) - self.clock.now())
            await asyncio.sleep(0.01)
        await wait_until(condition)

    async def due_by_route(self, event: Event) -> dict[str, bool]:
        """Return for each route of an event whether its delivery is due."""
        found = await self.store.catalog.deliveries(event_id=event.id)
        return {view.delivery.route: view.delivery.due_at <= self.clock.now() for view in found.items}

    async def alerts(self) -> list[tuple[str, Json]]:
        found = await self.store.catalog.events(limit=100)
        alerts = [event for event in reversed(found.items) if event.type.startswith("alert.")]
        return [(event.type.removeprefix("alert."), json.loads(event.envelope)["data"]) for event in alerts]

    def content(self, asset: Json) -> bytes:
        return Path(asset["path"]).read_bytes()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


class FakeUrlRefresher:
    """Returns images at the given URLs, or fails while it is unreachable."""

    def __init__(self, *urls: str, is_unreachable: bool = False) -> None:
        self.urls = urls
        self.is_unreachable = is_unreachable
        self.requested: list[str] = []

    async def refresh(self, task: Task) -> Mapping[str, Sequence[Json]]:
        self.requested.append(task.id)
        if self.is_unreachable:
            raise NoResponse("Kling did not answer.")
        return {"images": [{"index": n, "url": url, "watermark_url": f"{url}&mark"} for n, url in enumerate(self.urls)]}


@contextlib.asynccontextmanager
async def an_archive_system(folder: Path) -> AsyncIterator[ArchiveSystem]:
    """Open an archive system on a new store."""
    store = await open_store(folder / "receiver.db")
    system = ArchiveSystem(store, folder)
    yield system
    await system.shut_down()
    await check_stored_events(store)
    await store.aclose()


@contextlib.asynccontextmanager
async def a_cdn(**answers: bytes | Handler) -> AsyncIterator[Peer]:
    """Serve files by the first part of their path, and 404 for unknown ones."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = peer.requests[-1].line.split()[1].split("/")[1].partition("?")[0]
        given = answers.get(name, response(404))
        await (respond_with(given) if isinstance(given, bytes) else given)(reader, writer)

    async with http_peer(answer) as peer:
        yield peer


def truncated_response(body: bytes, *, after: int, **headers: str) -> Handler:
    """Promise a body and close the connection in the middle of it."""
    whole = response(200, body, **headers)
    return respond_with(whole[: len(whole) - len(body) + after], then_close=True)
