"""Opens everything in order, closes it in reverse, and says how it ended. The only place that names adapters.

Start: store, Kling, senders, work (dispatch, reconcile, submit), listeners, then READY. Stop: listeners first, so
that nothing new comes in, then work, which ends or gives back what is under way, then the store. Should any one
service end by itself, all end, and the process with 1: a receiver that is half alive is worse than one that is
started anew.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from random import SystemRandom

import structlog
from starlette.types import ASGIApp

from receiver import __version__
from receiver.alerts import Alerts
from receiver.announce import Announcer
from receiver.bells import Bells
from receiver.clock import Ids, SystemClock
from receiver.dispatch import Dispatcher, Lane
from receiver.errors import ReceiverError
from receiver.inbox import Inbox
from receiver.kling.client import Kling
from receiver.model import Secret
from receiver.outbound import Outbound
from receiver.reconcile import Reconciler
from receiver.retry import Pace, RetryPolicy
from receiver.routing import REPLY, compile_routes
from receiver.senders import Sender
from receiver.senders.address import OperatorGuard, PublicGuard
from receiver.senders.script import ScriptSender
from receiver.senders.webhook import ReplySender, WebhookSender
from receiver.settings import Address, Loaded, RouteSettings, Settings
from receiver.store.sqlite import SqliteStore
from receiver.submit import Submitter
from receiver.systemd import Notifier, listen_fds
from receiver.web.api import admin_app
from receiver.web.callbacks import public_app
from receiver.web.connection import Limits
from receiver.web.health import Check
from receiver.web.listener import Listener

log = structlog.get_logger()

GRACE = timedelta(seconds=20)
"""How long work under way may go on after a stop was asked for: longer than a webhook's time-out."""

_LISTENER_GRACE = timedelta(seconds=5)
_REPLY_TIMEOUT = timedelta(seconds=15)
_REPLY_CONCURRENCY = 8
_REPLY_POLICY = RetryPolicy(
    schedule=[timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600)],
    give_up_after=timedelta(hours=96),
)
_CONNECTIONS = 1000
_ADMIN_LIMITS = Limits(request=timedelta(minutes=5))  # pictures come in by base64

Work = Callable[[asyncio.Event], Coroutine[object, object, None]]
"""A service: runs until the event it is given, ends what it has under way, and returns."""


def run(loaded: Loaded) -> int:
    """Run the service until it is told to stop; give the process's exit code.

    Raises ReceiverError when it cannot start.
    """
    import uvloop  # noqa: PLC0415 -- commands that only ask for help or a table never pay for it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(loaded))


async def _run(loaded: Loaded) -> int:
    for warning in loaded.warnings:
        log.warning("configuration.doubtful", warning=warning)
    notifier = Notifier.from_environment()
    async with Service.open(loaded.settings, sockets=listen_fds()) as service:
        return await service.run(notifier)


@dataclass(slots=True)
class _Running:
    """A service under way, and how it is told to stop."""

    stop: asyncio.Event
    task: "asyncio.Task[None]"


class Service:
    """All parts of a running receiver, put together."""

    def __init__(self, *, store: SqliteStore, work: Mapping[str, Work], bells: Bells) -> None:
        self._store = store
        self._listeners: Mapping[str, Listener] = {}
        self._work = work
        self._bells = bells
        self._running: dict[str, _Running] = {}

    def listen(self, **listeners: Listener) -> None:
        """Say which listeners the service is to have."""
        self._listeners = listeners

    async def checks(self) -> Sequence[Check]:
        """Tell whether every part does its work."""
        store = "" if not self._store.broken.is_set() else "It broke; see the log, and run: kling-receiver db check"
        parts = {name: running.task.done() for name, running in self._running.items() if name in self._work}
        return [
            Check(name="store", ok=not store, reason=store),
            *(Check(name=name, ok=each.started.is_set()) for name, each in self._listeners.items()),
            *(Check(name=name, ok=not ended, reason="It has ended." if ended else "") for name, ended in parts.items()),
        ]

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: Settings, *, sockets: Mapping[str, Sequence[socket.socket]] | None = None
    ) -> AsyncIterator["Service"]:
        """Open the store and connections and put the parts together; closes them in reverse."""
        async with AsyncExitStack() as stack:
            yield await _assemble(settings, sockets or {}, stack)

    async def run(self, notifier: Notifier) -> int:
        """Run until SIGTERM or SIGINT (0), or until a part fails (1)."""
        asked_to_stop = _stop_signals()
        for name, work in self._work.items():
            self._start(name, work)
        for name, listener in self._listeners.items():
            self._start(name, listener.serve)
        ends = [asyncio.create_task(asked_to_stop.wait()), asyncio.create_task(self._store.broken.wait())]
        try:
            ready = asyncio.create_task(self._tell_ready(notifier))
            self._running["readiness"] = _Running(stop=asyncio.Event(), task=ready)
            await asyncio.wait(
                [*ends, *(running.task for running in self._running.values())], return_when=asyncio.FIRST_COMPLETED
            )
            notifier.stopping()
            failed = self._failed()
            if self._store.broken.is_set():
                log.critical("store.broken", remedy="Run: kling-receiver db check")
                return 1
            log.info("service.stopping", reason="a signal" if not failed else f"{failed} ended")
            await self._stop()
            return 1 if failed or self._failed() else 0
        finally:
            await self._abandon(ends)

    async def _tell_ready(self, notifier: Notifier) -> None:
        for listener in self._listeners.values():
            await listener.started.wait()
        log.info(
            "service.ready",
            addresses={name: [str(a) for a in each.addresses] for name, each in self._listeners.items()},
        )
        notifier.ready()
        while True:
            if notifier.alive_every is None:
                await asyncio.Event().wait()
            else:
                notifier.alive()
                await asyncio.sleep(notifier.alive_every.total_seconds())

    def _start(self, name: str, work: Work) -> None:
        stop = asyncio.Event()
        self._running[name] = _Running(stop=stop, task=asyncio.create_task(work(stop), name=name))

    def _failed(self) -> str:
        """Name a part that ended though nobody told it to, and say in the log what it died of."""
        for name, running in self._running.items():
            if running.task.done() and not running.task.cancelled() and not running.stop.is_set():
                log.critical("service.failed", part=name, exc_info=running.task.exception())
                return name
        return ""

    async def _stop(self) -> None:
        """Stop the listeners, and then the work they feed."""
        for names in (self._listeners, self._work):
            stopping = [self._running[name] for name in names]
            for running in stopping:
                running.stop.set()
            self._bells.ring()
            await asyncio.gather(*(running.task for running in stopping), return_exceptions=True)

    async def _abandon(self, ends: "Sequence[asyncio.Task[bool]]") -> None:
        left = [*ends, *(running.task for running in self._running.values())]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _assemble(
    settings: Settings, sockets: Mapping[str, Sequence[socket.socket]], stack: AsyncExitStack
) -> Service:
    """Put the parts together, from the store up."""
    clock, bells = SystemClock(), Bells()
    ids = Ids(clock)
    store = await SqliteStore.open(settings.store.path)
    stack.push_async_callback(store.aclose)
    announcer = Announcer(compile_routes(settings.routes), ids)
    inside, outside = _ways_out(settings, stack)
    lanes = _Lanes(settings, inside, outside)
    kling = Kling(settings.kling, outbound=inside, clock=clock)
    inbox = Inbox(store, announcer, callbacks=settings.callbacks, poll=settings.poll, bells=bells, clock=clock, ids=ids)
    alerts = Alerts(store, announcer, bells=bells, clock=clock)
    submitter = Submitter(store, kling, announcer, settings=settings, bells=bells, clock=clock, ids=ids)
    reconciler = Reconciler(store, kling, inbox, timeout=settings.kling.timeout, tasks_bell=bells.tasks, clock=clock)
    dispatcher = Dispatcher(
        store,
        lanes,
        announce=alerts.route,
        bell=bells.deliveries,
        clock=clock,
        ids=ids,
        rng=SystemRandom(),
        grace=GRACE,
    )
    work = {"dispatch": dispatcher.run, "reconcile": reconciler.run, "submit": submitter.run}
    service = Service(store=store, work=work, bells=bells)
    admin = admin_app(
        submitter=submitter,
        kling=kling,
        catalog=store,
        routes=settings.routes,
        states=store,
        senders=lanes.sender,
        events=bells.events,
        ready=service.checks,
        token=admin_token(settings),
        listen=settings.admin.listen,
        clock=clock,
        ids=ids,
    )
    public = public_app(inbox, max_body=settings.callbacks.max_body)
    service.listen(
        public=_listener("public", public, settings.public.listen, sockets, Limits()),
        admin=_listener("admin", admin, settings.admin.listen, sockets, _ADMIN_LIMITS),
    )
    return service


def _listener(
    name: str, app: ASGIApp, address: Address, sockets: Mapping[str, Sequence[socket.socket]], limits: Limits
) -> Listener:
    listener = Listener(
        app,
        key=f"[{name}] listen",
        address=address,
        sockets=sockets.get(name, ()),
        limits=limits,
        grace=_LISTENER_GRACE,
    )
    listener.bind()
    return listener


def _ways_out(settings: Settings, stack: AsyncExitStack) -> tuple[Outbound, Outbound]:
    """Make the way to what the operator named, and the one to what strangers named."""
    agent = f"kling-receiver/{__version__}"
    inside = Outbound(guard=OperatorGuard(), user_agent=agent, max_connections=_CONNECTIONS)
    outside = Outbound(guard=PublicGuard(settings.network.allow), user_agent=agent, max_connections=_CONNECTIONS)
    stack.push_async_callback(inside.aclose)
    stack.push_async_callback(outside.aclose)
    return inside, outside


class _Lanes:
    """Finds the lane of a route: those of the configuration, and one per host for clients' own URLs."""

    def __init__(self, settings: Settings, inside: Outbound, outside: Outbound) -> None:
        self._lanes = {route.name: _lane(route, inside) for route in settings.routes}
        self._reply = ReplySender(outbound=outside, timeout=_REPLY_TIMEOUT, secret=settings.gateway.secret)

    def __call__(self, route: str) -> Lane | None:
        if route.startswith(REPLY) and route not in self._lanes:
            self._lanes[route] = Lane(sender=self._reply, policy=_REPLY_POLICY, concurrency=_REPLY_CONCURRENCY)
        return self._lanes.get(route)

    def sender(self, route: str) -> Sender | None:
        """Find the sender of a route."""
        lane = self(route)
        return None if lane is None else lane.sender


def _lane(route: RouteSettings, outbound: Outbound) -> Lane:
    return Lane(
        sender=make_sender(route, outbound),
        policy=RetryPolicy(schedule=route.retry, give_up_after=route.give_up_after),
        concurrency=route.concurrency,
        pace=None if route.rate is None else Pace(count=route.rate.count, per=route.rate.per),
    )


def make_sender(route: RouteSettings, outbound: Outbound) -> Sender:
    """Make the sender for a route's kind of destination."""
    if route.webhook is not None:
        return WebhookSender(route.webhook, outbound=outbound)
    if route.script is not None:
        return ScriptSender(route.script)
    raise ReceiverError(f"Route {route.name} leads nowhere.")


def admin_token(settings: Settings) -> Secret:
    """Give the admin listener's token; at first start it is made and kept beside the store, for its owner alone."""
    if settings.admin.token:
        return settings.admin.token
    path = settings.data_dir / "admin-token"
    try:
        return Secret(path.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        token = Ids.token()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{token}\n")
        return Secret(token)


def _stop_signals() -> asyncio.Event:
    """Turn SIGTERM and SIGINT into an event."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    return asked
