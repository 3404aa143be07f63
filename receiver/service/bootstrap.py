"""Puts the receiver together from its configuration, and runs it. The only place that names adapters.

What is opened is closed in reverse: the store first and last.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
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
from receiver.domain.errors import ConfigurationError, StoreUnavailable
from receiver.domain.model import Secret
from receiver.domain.notifier import Notifiers
from receiver.events.alerts import AlertFactory
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.kling.client import KlingClient
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.service.disk_monitor import DiskMonitor
from receiver.service.retention import Retention
from receiver.service.startup_gate import StartupGate
from receiver.service.supervisor import Supervisor, Work
from receiver.service.systemd import SystemdNotifier, listen_fds
from receiver.settings import Address, Loaded, Settings
from receiver.store.sqlite.store import SqliteStore
from receiver.submission.executor import CreateExecutor
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
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener

log = structlog.get_logger()

GRACE = timedelta(seconds=20)
"""How long work under way may go on after a stop was asked for: longer than a webhook's time-out."""

_LISTENER_GRACE = timedelta(seconds=5)
_MAX_CONNECTIONS = 1000
_ADMIN_LIMITS = ConnectionLimits(request=timedelta(minutes=5))  # pictures come in by base64


def run(loaded: Loaded) -> int:
    """Run the service until it is told to stop; give the process's exit code.

    Raises ReceiverError when it cannot start.
    """
    import uvloop  # noqa: PLC0415 -- commands that only ask for help or a table never pay for it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(loaded))


async def _run(loaded: Loaded) -> int:
    for warning in loaded.warnings:
        log.warning("configuration.warned", warning=warning)
    notifier = SystemdNotifier.from_environment()
    async with AsyncExitStack() as stack:
        supervisor = await _build_when_disk_has_space(loaded.settings, stack, notifier)
        if supervisor is None:
            return 0
        gc.freeze()  # all this stays, and looking through it for garbage would stop the loop for some 30 ms each time
        gc.enable()
        if ended := await kill_orphans():
            log.warning("scripts.ended", processes=ended, reason="The receiver that ran them was killed.")
        return await supervisor.run(notifier)


async def _build_when_disk_has_space(
    settings: Settings, stack: AsyncExitStack, systemd: SystemdNotifier
) -> Supervisor | None:
    """Put the parts together, however long that takes on a full disk; None when told to stop before."""
    addresses = {"public": settings.public.listen, "admin": settings.admin.listen}
    anteroom = StartupGate(settings.data_dir, addresses, listen_fds(), systemd=systemd, clock=SystemClock())
    while True:
        try:
            async with AsyncExitStack() as attempt:
                supervisor = await _build(settings, anteroom.sockets, attempt)
                stack.push_async_exit(attempt.pop_all())
                return supervisor
        except (StoreUnavailable, OSError):
            if not anteroom.is_disk_full():
                raise
        if not await anteroom.wait():
            return None


async def _build(
    settings: Settings, sockets: Mapping[str, Sequence[socket.socket]], stack: AsyncExitStack
) -> Supervisor:
    """Put the parts together, from the store up."""
    clock, bells = SystemClock(), Notifiers()
    store = await SqliteStore.open(settings.store.path)
    stack.push_async_callback(store.aclose)
    ids = Ids(clock, after=await store.newest_id())
    announcer = EventFactory(compile_routes(settings.routes), ids, archive=settings.archive.is_on)
    alerts = AlertFactory(announcer, clock=clock)
    inside, outside = _build_http_clients(settings, stack)
    lanes = LaneRegistry(settings, inside, outside)
    kling = KlingClient(settings.kling, http_client=inside, clock=clock)
    inbox, submitter, work = _build_tasks(settings, store, kling, announcer, notifiers=bells, clock=clock, ids=ids)
    holds = RouteStates(store, alerts, notifiers=bells, clock=clock)
    dispatcher = Dispatcher(
        store, lanes, holds, notifier=bells.deliveries, clock=clock, ids=ids, rng=SystemRandom(), grace=GRACE
    )
    gatherer = BatchService(store.batches, announcer, notifiers=bells, clock=clock)
    replayer = ReplayService(store.replays, store, routes=settings.routes, notifiers=bells, clock=clock, ids=ids)
    kept = await _build_archive_and_retention(
        settings, store, kling, outside, alerts, stack=stack, notifiers=bells, clock=clock
    )
    work = {"dispatch": dispatcher.run, "replay": replayer.run, "batches": gatherer.run, **kept, **work}
    supervisor = Supervisor(broken=store.broken, work=work, notifiers=bells)
    parts = AdminServices(
        submitter=submitter,
        kling=kling,
        catalog=store,
        routes=settings.routes,
        route_state_store=store,
        route_states=holds,
        replays=replayer,
        batches=gatherer,
        costs=store.costs,
        explainer=Explainer(store, store, routes=[route.name for route in settings.routes], clock=clock),
        find_sender=lanes.sender,
        event_notifier=bells.events,
        readiness=with_disk_check(supervisor.readiness, store.disk_space.shortage),
        clock=clock,
        ids=ids,
    )
    supervisor.set_listeners(**_listeners(settings, inbox, parts, sockets))
    return supervisor


async def _build_archive_and_retention(
    settings: Settings,
    store: SqliteStore,
    kling: KlingClient,
    public_client: HttpClient,
    alerts: AlertFactory,
    *,
    stack: AsyncExitStack,
    notifiers: Notifiers,
    clock: Clock,
) -> Mapping[str, Work]:
    """Put together what brings results home, and what takes away what is old."""
    work: dict[str, Work] = {"retention": Retention(store, settings.retention, clock=clock).run}
    folder, storage = settings.archive.dir, settings.archive.storage
    if not settings.archive.is_on:
        await abandon(store, clock=clock)
    else:
        copies = None
        if storage.url:
            kept = await stack.enter_async_context(open_s3(storage, guard=OperatorGuard()))
            copies = CopyTarget(storage=kept, remove_local=folder is None)
        has_key = bool(settings.kling.api_key or settings.kling.access_key)
        archiver = Archiver(
            store,
            Fetcher(public_client),
            folder or settings.data_dir / "arriving",
            refresher=ResultRefresher(kling) if has_key else None,
            copy_target=copies,
            alerts=alerts,
            notifiers=notifiers,
            clock=clock,
            rng=SystemRandom(),
        )
        work["archive"] = archiver.run
    return work


def _listeners(
    settings: Settings, inbox: Inbox, services: AdminServices, sockets: Mapping[str, Sequence[socket.socket]]
) -> Mapping[str, Listener]:
    admin = admin_app(services, token=admin_token(settings), listen=settings.admin.listen)
    proxies = TrustedProxies(settings.public.proxies)
    public = public_app(
        inbox, max_body=settings.callbacks.max_body, allowed_hosts=_public_hosts(settings), proxies=proxies
    )
    return {
        "public": _listener("public", public, settings.public.listen, sockets, ConnectionLimits(proxies=proxies)),
        "admin": _listener("admin", admin, settings.admin.listen, sockets, _ADMIN_LIMITS),
    }


def _build_tasks(
    settings: Settings,
    store: SqliteStore,
    kling: KlingClient,
    event_factory: EventFactory,
    *,
    notifiers: Notifiers,
    clock: Clock,
    ids: Ids,
) -> tuple[Inbox, Submitter, Mapping[str, Work]]:
    """Put together what submits to Kling, hears from it and asks it; the last of the three is what runs by itself."""
    alarm = TaskAlerts(store, store, event_factory, public_url=settings.public.url, notifiers=notifiers, clock=clock)
    inbox = Inbox(
        store,
        event_factory,
        callbacks=settings.callbacks,
        poll=settings.poll,
        notifiers=notifiers,
        clock=clock,
        ids=ids,
        health_observer=alarm if settings.public.url else None,
    )
    outcomes = CreateRecorder(store, event_factory, poll=settings.poll, notifiers=notifiers, clock=clock)
    recovery = CreateRecovery(store, kling, outcomes, store, settings=settings, notifiers=notifiers, clock=clock)
    creates = CreateExecutor(store, kling, outcomes, recovery, alarm, settings=settings, clock=clock)
    submitter = Submitter(store, creates, outcomes, settings=settings, notifiers=notifiers, clock=clock, ids=ids)
    reconciler = Poller(
        store,
        kling,
        inbox,
        alarm,
        timeout=settings.kling.timeout,
        tasks_notifier=notifiers.tasks,
        clock=clock,
        latest=ids.latest,
    )
    room = DiskMonitor(store.disk_space, alarm, clock=clock)
    work = {"reconcile": reconciler.run, "recover": recovery.run, "submit": submitter.run, "room": room.run}
    return inbox, submitter, work


def _public_hosts(settings: Settings) -> AllowedHosts | None:
    """Give the names that callbacks may come by; None where nobody has said how Kling reaches us."""
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
    """Make the way to what the operator named, and the one to what strangers named."""
    agent = f"kling-receiver/{__version__}"
    inside = HttpClient(guard=OperatorGuard(), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    outside = HttpClient(guard=PublicGuard(settings.network.allow), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    stack.push_async_callback(inside.aclose)
    stack.push_async_callback(outside.aclose)
    return inside, outside


def admin_token(settings: Settings) -> Secret:
    """Give the admin listener's token; at first start it is made and kept beside the store, for its owner alone.

    Raises ConfigurationError where something lies there that is no token, and StoreUnavailable where none can be kept.
    """
    if settings.admin.token:
        return settings.admin.token
    path = settings.data_dir / "admin-token"
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        kept = ""
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        remedy = "let the service's user read it, or move it away and a new one is made, or set [admin] token"
        raise ConfigurationError([f"admin.token: the token kept in {path} cannot be read: {reason}; {remedy}"]) from exc
    return Secret(kept or _create_token_file(path))


def _create_token_file(path: Path) -> str:
    """Make a token; its file is there whole or not at all, for whoever took an empty one for it would let all in."""
    token = Ids.token()
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
    except OSError as exc:
        raise StoreUnavailable(
            f"The admin token cannot be kept: {draft} cannot be written: {exc.strerror}.",
            remedy="Let the service's user write there, move away what is in its way, or set [admin] token.",
        ) from exc
    return token
