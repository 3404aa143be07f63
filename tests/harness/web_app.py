"""The web layer for tests: both apps on real sockets and a real store, without workers."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx2 as httpx
from harness.archived_results import running_previews
from harness.clock import FakeClock
from harness.http_client import plain_http
from harness.sqlite_template import open_store
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from receiver.archive.deletion import TaskDeleter
from receiver.archive.previews import Previews
from receiver.archive.reader import ArchiveReader
from receiver.delivery.lane_registry import LaneRegistry
from receiver.domain.api_schema.resources import Check
from receiver.domain.clock import Ids, SystemClock
from receiver.domain.metrics import Metrics
from receiver.domain.notifier import Notifiers
from receiver.domain.secret import Secret
from receiver.kling.client import KlingClient
from receiver.net.http_client import HttpClient
from receiver.service.admin_wiring import admin_services
from receiver.service.context import make_context
from receiver.service.diagnostics import diagnosis
from receiver.service.reload import Reloader
from receiver.service.systemd import SystemdNotifier
from receiver.service.wiring import ResultServices, build_deliveries, build_tasks
from receiver.settings import Address, KlingSettings, Loaded, PublicSettings, RouteSettings, Settings, WebhookSettings
from receiver.store.sqlite.store import SqliteStore
from receiver.web.admin import admin_app
from receiver.web.callbacks import public_app
from receiver.web.probes import ProbeRegistry

Serve = Callable[..., Awaitable[Address]]
SendBytes = Callable[[Address, bytes], Awaitable[bytes]]

TOKEN = "the-admin-token"
READ_TOKEN = "the-read-token"


class RecordingServer:
    """Stands in for Kling: records each request, and answers as set, once ``gate`` is open."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.answer: Callable[[Request], Response | None] = _created
        self.gate: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests.append(request)
        self.bodies.append(await request.body())
        if self.gate is not None:
            await self.gate.wait()
        response = self.answer(request)
        if response is None:
            # Close in the middle of an answer, like a proxy that has lost its upstream.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            raise ConnectionError
        await response(scope, receive, send)


def _created(_request: Request) -> Response:
    data = {"task_id": "8672", "task_status": "submitted"}
    return JSONResponse({"code": 0, "message": "SUCCEED", "request_id": "r1", "data": data})


@dataclass(frozen=True, kw_only=True)
class WebApp:
    """A receiver without its workers: both apps on real sockets and a real store."""

    app: Starlette
    admin: Address
    public: Address
    client: httpx.AsyncClient
    kling: RecordingServer
    sink: RecordingServer
    store: SqliteStore
    metrics: Metrics
    clock: FakeClock
    ids: Ids
    notifiers: Notifiers
    checks: list[Check]
    previews: Previews


@asynccontextmanager
async def a_web_app(serve: Serve, folder: Path) -> AsyncIterator[WebApp]:
    """Open the web layer, and an HTTP client with its token."""
    server, sink, clock = RecordingServer(), RecordingServer(), FakeClock()
    kling_at, sink_at = await serve(server), await serve(sink)
    settings = Settings(
        public=PublicSettings(url="https://hooks.example.com"),
        kling=KlingSettings(base_url=f"http://{kling_at}", api_key=Secret("kling-key")),
        routes=(_route(f"http://{sink_at}/hook?key=hidden-in-the-url"),),
    )
    checks = [Check(name="store", ok=True)]

    async def ready() -> Sequence[Check]:
        return checks

    async with AsyncExitStack() as stack:
        metrics = Metrics(["publish"])
        store = await open_store(folder / "receiver.db", clock=clock, metrics=metrics)
        stack.push_async_callback(store.aclose)
        http_client = HttpClient(user_agent="kling-receiver/test")
        stack.push_async_callback(http_client.aclose)
        kling = KlingClient(settings.kling, http_client=http_client, clock=clock)
        context = make_context(settings, store, kling, clock=clock, ids=Ids(clock), rng=Random(1), metrics=metrics)
        lanes = LaneRegistry(settings, http_client, http_client, context.redactor)
        tasks, deliveries = build_tasks(context), build_deliveries(context, lanes)
        previews = Previews(folder / ".previews", ArchiveReader())
        await stack.enter_async_context(running_previews(previews))
        deleter = TaskDeleter(store.deletions, objects=None, previews=previews, clock=clock)
        results = ResultServices(previews=previews, deleter=deleter)
        services = admin_services(
            context,
            tasks,
            deliveries,
            find_sender=lanes.sender,
            readiness=ready,
            diagnose=diagnosis(ready, started_at=clock.now()),
            probes=ProbeRegistry(clock=clock),
            reloads=_a_reloader(settings, folder),
            results=results,
        )
        app = admin_app(services, token=Secret(TOKEN), read_token=Secret(READ_TOKEN), listen=settings.admin.listen)
        public = await serve(
            public_app(tasks.inbox, max_body=settings.callbacks.max_body, probes=services.probes, metrics=metrics)
        )
        admin = await serve(app)
        client = await stack.enter_async_context(
            plain_http(base_url=f"http://{admin}", headers={"authorization": f"Bearer {TOKEN}"})
        )
        yield WebApp(
            app=app,
            admin=admin,
            public=public,
            client=client,
            kling=server,
            sink=sink,
            store=store,
            metrics=metrics,
            clock=clock,
            ids=context.ids,
            notifiers=context.notifiers,
            checks=checks,
            previews=previews,
        )
        await tasks.submitter.drain()


def _a_reloader(settings: Settings, folder: Path) -> Reloader:
    """A reloader whose file differs from the running settings, and whose parts are none."""
    file = folder / "config.toml"
    file.write_text(f'[poll]\nevery = "10m"\n[admin]\ntoken = "{TOKEN}"\n')
    os.utime(file, (0, 0))  # so that it is not waited for
    loaded, requested = Loaded(settings=settings, path=file), asyncio.Event()
    return Reloader(loaded, requested=requested, systemd=SystemdNotifier(), clock=SystemClock())


def _route(url: str) -> RouteSettings:
    secret = Secret("whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=")
    return RouteSettings(
        name="publish",
        endpoints=("images/*",),
        webhook=WebhookSettings(url=url, secret=(secret,), headers={"x-key": Secret("hidden-in-a-header")}),
    )
