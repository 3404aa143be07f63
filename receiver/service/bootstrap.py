"""Builds the service from its configuration and runs it. Only this module names adapters.

Resources are closed in reverse order of opening, so the store opens first and closes last.
"""

import asyncio
import gc
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from random import SystemRandom
from urllib.parse import urlsplit

import structlog
from starlette.types import ASGIApp

from receiver import __version__
from receiver.archive.archiver import Archiver, CopyTarget, abandon
from receiver.archive.fetcher import Fetcher
from receiver.archive.s3 import open_s3
from receiver.delivery.dispatcher import Dispatcher
from receiver.delivery.lanes import LaneRegistry
from receiver.delivery.replay import ReplayService
from receiver.delivery.route_states import RouteStates
from receiver.delivery.senders.process import kill_orphans
from receiver.domain.clock import Clock, Ids, SystemClock
from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.domain.redaction import Redactor
from receiver.events.alerts import AlertFactory
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.kling.client import KlingClient
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.service import logs
from receiver.service.admin_token import admin_token
from receiver.service.disk_monitor import DiskMonitor
from receiver.service.retention import Retention
from receiver.service.startup_gate import StartupGate
from receiver.service.supervisor import Supervisor, Work
from receiver.service.systemd import SystemdNotifier, listen_fds
from receiver.settings import Address, Loaded, Settings, secrets_in
from receiver.store.disk import real_path
from receiver.store.sqlite.store import SqliteStore
from receiver.submission.executor import CreateExecutor
from receiver.submission.gateway_creates import GatewayCreates
from receiver.submission.recorder import CreateRecorder
from receiver.submission.recovery import CreateRecovery
from receiver.submission.submitter import Submitter
from receiver.tasks.alerts import TaskAlerts
from receiver.tasks.batches import BatchService
from receiver.tasks.explain import Explainer
from receiver.tracking.inbox import Inbox
from receiver.tracking.poller import Poller
from receiver.tracking.result_refresher import ResultRefresher
from receiver.web.admin import AdminServices, admin_app
from receiver.web.callbacks import public_app
from receiver.web.resources.health import with_disk_check
from receiver.web.server.allowed_hosts import AllowedHosts
from receiver.web.server.body import MAX_JOB_BODY
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener

log = structlog.get_logger()

GRACE = timedelta(seconds=20)
"""How long work in flight may continue after a stop signal: longer than a webhook's timeout."""

_LISTENER_GRACE = timedelta(seconds=5)
_MAX_CONNECTIONS = 1000
_ADMIN_LIMITS = ConnectionLimits(
    request=timedelta(minutes=5),  # uploads of base64 images are slow
    drained_bytes=2 * MAX_JOB_BODY,  # so that a client with a wrong token reads its 401 after a large upload
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every part of the service is built from."""

    settings: Settings
    store: SqliteStore
    kling: KlingClient
    operator_client: HttpClient
    public_client: HttpClient
    event_factory: EventFactory
    alerts: AlertFactory
    redactor: Redactor
    notifiers: Notifiers
    clock: Clock
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskServices:
    """The services that submit and track tasks, and their background work."""

    inbox: Inbox
    submitter: Submitter
    work: Mapping[str, Work]


def run(loaded: Loaded) -> int:
    """Run the service until it is stopped, and return the process's exit code.

    Raises ReceiverError if it cannot start.
    """
    import uvloop  # noqa: PLC0415 -- commands that print a help text or a table do not need it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(loaded))


async def _run(loaded: Loaded) -> int:
    for warning in loaded.warnings:
        log.warning("configuration.warned", warning=warning)
    systemd = SystemdNotifier.from_environment()
    async with AsyncExitStack() as stack:
        supervisor = await _build_when_disk_has_space(loaded.settings, stack, systemd)
        if supervisor is None:
            return 0
        gc.freeze()  # these objects live forever, and each collection of them would block the loop for about 30 ms
        gc.enable()
        if killed := await kill_orphans():
            log.warning("scripts.killed", processes=killed, reason="The receiver that started them was killed.")
        return await supervisor.run(systemd)


async def _build_when_disk_has_space(
    settings: Settings, stack: AsyncExitStack, systemd: SystemdNotifier
) -> Supervisor | None:
    """Build the service, after waiting while the disk is full. Return None if stopped before."""
    addresses = {"public": settings.public.listen, "admin": settings.admin.listen}
    folder = real_path(settings.store.path).parent
    gate = StartupGate(folder, addresses, listen_fds(), systemd=systemd, clock=SystemClock())
    while True:
        try:
            async with AsyncExitStack() as attempt:
                supervisor = await _build(settings, gate.sockets, attempt)
                stack.push_async_exit(attempt.pop_all())
                return supervisor
        except (StoreUnavailable, OSError):
            if not gate.is_disk_full():
                raise
        if not await gate.wait():
            return None


async def _build(
    settings: Settings, sockets: Mapping[str, Sequence[socket.socket]], stack: AsyncExitStack
) -> Supervisor:
    context = await _open_context(settings, stack)
    store, notifiers, clock, ids = context.store, context.notifiers, context.clock, context.ids
    lanes = LaneRegistry(settings, context.operator_client, context.public_client, context.redactor)
    tasks = _build_tasks(context)
    route_states = RouteStates(store.deliveries, context.alerts, notifiers=notifiers, clock=clock)
    dispatcher = _build_dispatcher(context, lanes, route_states)
    batches = BatchService(store.batches, context.event_factory, notifiers=notifiers, clock=clock)
    replays = ReplayService(
        store.replays, store.catalog, routes=settings.routes, notifiers=notifiers, clock=clock, ids=ids
    )
    work: dict[str, Work] = {"dispatcher": dispatcher.run, "replay": replays.run, "batches": batches.run}
    work |= {**await _build_archive_and_retention(context, stack), **tasks.work}
    supervisor = Supervisor(broken=store.broken, work=work, notifiers=notifiers)
    services = AdminServices(
        submitter=tasks.submitter,
        gateway_creates=_gateway_creates(context, tasks.submitter),
        kling=context.kling,
        catalog=store.catalog,
        routes=settings.routes,
        route_state_store=store.deliveries,
        route_states=route_states,
        replays=replays,
        batches=batches,
        costs=store.costs,
        explainer=Explainer(
            store.catalog, store.tasks, store.deliveries, routes=[route.name for route in settings.routes], clock=clock
        ),
        find_sender=lanes.sender,
        event_notifier=notifiers.events,
        readiness=with_disk_check(supervisor.readiness, store.disk_space.shortage),
        clock=clock,
        ids=ids,
    )
    supervisor.set_listeners(**_listeners(settings, tasks.inbox, services, sockets))
    return supervisor


def _build_dispatcher(context: Context, lanes: LaneRegistry, route_states: RouteStates) -> Dispatcher:
    return Dispatcher(
        context.store.deliveries,
        lanes,
        route_states,
        notifier=context.notifiers.deliveries,
        clock=context.clock,
        ids=context.ids,
        rng=SystemRandom(),
        grace=GRACE,
    )


async def _open_context(settings: Settings, stack: AsyncExitStack) -> Context:
    """Open the store and the HTTP clients."""
    clock = SystemClock()
    store = await SqliteStore.open(settings.store.path)
    stack.push_async_callback(store.aclose)
    ids = Ids(clock, after=await store.newest_id())
    event_factory = EventFactory(compile_routes(settings.routes), ids, archive=settings.archive.is_on)
    operator_client, public_client = _build_http_clients(settings, stack)
    redactor = Redactor([*secrets_in(settings), admin_token(settings)])
    logs.hide_secrets(redactor)
    return Context(
        settings=settings,
        store=store,
        kling=KlingClient(settings.kling, http_client=operator_client, clock=clock, redactor=redactor),
        operator_client=operator_client,
        public_client=public_client,
        event_factory=event_factory,
        alerts=AlertFactory(event_factory, clock=clock),
        redactor=redactor,
        notifiers=Notifiers(),
        clock=clock,
        ids=ids,
    )


async def _build_archive_and_retention(context: Context, stack: AsyncExitStack) -> Mapping[str, Work]:
    """Build the work that archives results and deletes old data."""
    settings, clock = context.settings, context.clock
    work: dict[str, Work] = {"retention": Retention(context.store.retention, settings.retention, clock=clock).run}
    folder, storage = settings.archive.dir, settings.archive.storage
    if not settings.archive.is_on:
        await abandon(context.store.archive, clock=clock)
        return work
    copy_target = None
    if storage.url:
        opened = await stack.enter_async_context(open_s3(storage, guard=OperatorGuard()))
        copy_target = CopyTarget(storage=opened, remove_local=folder is None)
    has_key = bool(settings.kling.api_key or settings.kling.access_key)
    archiver = Archiver(
        context.store.archive,
        context.store.catalog,
        Fetcher(context.public_client),
        folder or settings.data_dir / "arriving",
        refresher=ResultRefresher(context.kling) if has_key else None,
        copy_target=copy_target,
        alerts=context.alerts,
        notifiers=context.notifiers,
        clock=clock,
        rng=SystemRandom(),
    )
    return work | {"archiver": archiver.run}


def _listeners(
    settings: Settings, inbox: Inbox, services: AdminServices, sockets: Mapping[str, Sequence[socket.socket]]
) -> Mapping[str, Listener]:
    admin = admin_app(services, token=admin_token(settings), listen=settings.admin.listen, hosts=settings.admin.hosts)
    proxies = TrustedProxies(settings.public.proxies)
    public = public_app(
        inbox, max_body=settings.callbacks.max_body, allowed_hosts=_public_hosts(settings), proxies=proxies
    )
    return {
        "public": _listener("public", public, settings.public.listen, sockets, ConnectionLimits(proxies=proxies)),
        "admin": _listener("admin", admin, settings.admin.listen, sockets, _ADMIN_LIMITS),
    }


def _build_tasks(context: Context) -> TaskServices:
    settings, store, kling, event_factory = context.settings, context.store, context.kling, context.event_factory
    notifiers, clock, ids = context.notifiers, context.clock, context.ids
    alerts = TaskAlerts(
        store.tasks, store.catalog, event_factory, public_url=settings.public.url, notifiers=notifiers, clock=clock
    )
    inbox = _build_inbox(context, alerts)
    recorder = CreateRecorder(store.tasks, event_factory, poll=settings.poll, notifiers=notifiers, clock=clock)
    recovery = CreateRecovery(
        store.tasks, kling, recorder, store.catalog, settings=settings, notifiers=notifiers, clock=clock
    )
    executor = CreateExecutor(store.tasks, kling, recorder, recovery, alerts, settings=settings, clock=clock)
    submitter = Submitter(store.tasks, executor, recorder, settings=settings, notifiers=notifiers, clock=clock, ids=ids)
    poller = Poller(
        store.tasks,
        kling,
        inbox,
        alerts,
        timeout=settings.kling.timeout,
        tasks_notifier=notifiers.tasks,
        clock=clock,
        latest=ids.latest,
    )
    disk_monitor = DiskMonitor(store.disk_space, alerts, clock=clock)
    work = {
        "poller": poller.run,
        "recovery": recovery.run,
        "submitter": submitter.run,
        "disk_monitor": disk_monitor.run,
    }
    return TaskServices(inbox=inbox, submitter=submitter, work=work)


def _build_inbox(context: Context, alerts: TaskAlerts) -> Inbox:
    settings = context.settings
    return Inbox(
        context.store.tasks,
        context.event_factory,
        callbacks=settings.callbacks,
        poll=settings.poll,
        notifiers=context.notifiers,
        clock=context.clock,
        ids=context.ids,
        health_observer=alerts if settings.public.url else None,
        redactor=context.redactor,
    )


def _gateway_creates(context: Context, submitter: Submitter) -> GatewayCreates:
    store, timeout = context.store, context.settings.kling.timeout
    notifier = context.notifiers.tasks
    return GatewayCreates(
        submitter, store.tasks, store.catalog, timeout=timeout, notifier=notifier, clock=context.clock
    )


def _public_hosts(settings: Settings) -> AllowedHosts | None:
    """Return the host names that callbacks may use, or None if no public URL is configured."""
    host = urlsplit(settings.public.url).hostname
    return None if host is None else AllowedHosts(settings.public.listen, {host})


def _listener(
    name: str, app: ASGIApp, address: Address, sockets: Mapping[str, Sequence[socket.socket]], limits: ConnectionLimits
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


def _build_http_clients(settings: Settings, stack: AsyncExitStack) -> tuple[HttpClient, HttpClient]:
    """Return the client for URLs of the operator, and the client for URLs of untrusted parties."""
    agent = f"kling-receiver/{__version__}"
    operator = HttpClient(guard=OperatorGuard(), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    public = HttpClient(guard=PublicGuard(settings.network.allow), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    stack.push_async_callback(operator.aclose)
    stack.push_async_callback(public.aclose)
    return operator, public
