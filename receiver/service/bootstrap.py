"""Opens what the service needs, builds it from its configuration and runs it.

Resources are closed in reverse order of opening, so the store opens first and closes last.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from random import SystemRandom
from types import MappingProxyType
from urllib.parse import urlsplit

import structlog
from starlette.types import ASGIApp

from receiver import __version__
from receiver.archive.archiver import CopyTarget, abandon
from receiver.archive.fetcher import Fetcher
from receiver.archive.folder_check import FolderCheck
from receiver.archive.previews import Previews
from receiver.archive.s3 import S3Storage, open_s3
from receiver.delivery.lanes import LaneRegistry
from receiver.delivery.senders.process import kill_orphans
from receiver.domain.clock import Ids, SystemClock
from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.domain.redaction import Redactor
from receiver.kling.client import KlingClient
from receiver.kling.route_globs import unmatched_globs
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.service import logs
from receiver.service.admin_token import TOKEN_FILE, admin_token
from receiver.service.disk_monitor import DiskMonitor
from receiver.service.open_telemetry import open_tracing
from receiver.service.retention import Retention
from receiver.service.startup_gate import StartupGate
from receiver.service.supervisor import Supervisor, Work
from receiver.service.systemd import SystemdNotifier, listen_fds
from receiver.service.wiring import (
    Context,
    ResultServices,
    TaskServices,
    admin_services,
    build_archiver,
    build_deliveries,
    build_measurements,
    build_reports,
    build_results,
    build_tasks,
    make_context,
    pending_counter,
)
from receiver.settings import Address, Loaded, Settings, secrets_in
from receiver.store.disk import real_path
from receiver.store.sqlite.store import SqliteStore
from receiver.tracking.inbox import Inbox
from receiver.tracking.result_refresher import ResultRefresher
from receiver.web.admin import AdminServices, admin_app
from receiver.web.callbacks import public_app
from receiver.web.resources.health import ReadinessCheck, with_archive_check, with_disk_check
from receiver.web.server.allowed_hosts import AllowedHosts
from receiver.web.server.body import MAX_JOB_BODY
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener

log = structlog.get_logger()

_LISTENER_GRACE = timedelta(seconds=5)
_MAX_CONNECTIONS = 1000
_GC_THRESHOLD = 10_000
"""New objects between two collections. Python's 700 are those of ten callbacks, and hardly any has a cycle."""
_ADMIN_LIMITS = ConnectionLimits(
    request=timedelta(minutes=5),  # uploads of base64 images are slow
    drained_bytes=2 * MAX_JOB_BODY,  # so that a client with a wrong token reads its 401 after a large upload
)


def run(loaded: Loaded) -> int:
    """Run the service until it is stopped, and return the process's exit code.

    Raises ReceiverError if it cannot start.
    """
    import uvloop  # noqa: PLC0415 -- commands that print a help text or a table do not need it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run_until_stopped(loaded))


def _log_start(loaded: Loaded) -> None:
    """Log what a reader of the log needs first: the version, the files, and where programs send their creates."""
    settings = loaded.settings
    log.info(
        "service.starting",
        version=__version__,
        configuration=str(loaded.path or "the defaults"),
        store=str(settings.store.path),
        admin_token="configured" if settings.admin.token else str(settings.data_dir / TOKEN_FILE),
        gateway=f"http://{settings.admin.listen}/kling",
        ends_by="callbacks and polls" if settings.public.url else "polls alone",
    )


async def run_until_stopped(loaded: Loaded) -> int:
    """Run the service on this event loop until it is stopped, and return the process's exit code."""
    _log_start(loaded)
    for warning in (*loaded.warnings, *unmatched_globs(loaded)):
        log.warning("configuration.warned", warning=warning)
    systemd = SystemdNotifier.from_environment()
    async with AsyncExitStack() as stack:
        supervisor = await _build_when_disk_has_space(loaded, stack, systemd)
        if supervisor is None:
            return 0
        gc.freeze()  # these objects live forever, and each collection of them would block the loop for about 30 ms
        gc.enable()
        gc.set_threshold(_GC_THRESHOLD)
        if killed := await kill_orphans():
            log.warning("scripts.killed", processes=killed, reason="The receiver that started them was killed.")
        return await supervisor.run(systemd)


async def _build_when_disk_has_space(
    loaded: Loaded, stack: AsyncExitStack, systemd: SystemdNotifier
) -> Supervisor | None:
    """Build the service, after waiting while the disk is full. Return None if stopped before."""
    settings = loaded.settings
    addresses = {"public": settings.public.listen, "admin": settings.admin.listen}
    folder = real_path(settings.store.path).parent
    gate = StartupGate(folder, addresses, listen_fds(), systemd=systemd, clock=SystemClock())
    while True:
        try:
            async with AsyncExitStack() as attempt:
                supervisor = await build_service(settings, gate.sockets, attempt, origins=loaded.origins)
                stack.push_async_exit(attempt.pop_all())
                return supervisor
        except (StoreUnavailable, OSError):
            if not gate.is_disk_full():
                raise
        if not await gate.wait():
            return None


async def build_service(
    settings: Settings,
    sockets: Mapping[str, Sequence[socket.socket]],
    stack: AsyncExitStack,
    *,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> Supervisor:
    """Open the store, the HTTP clients and the listeners, and build the service. *stack* closes them."""
    clock, metrics = SystemClock(), Metrics([route.name for route in settings.routes])
    store = await SqliteStore.open(settings.store.path, metrics=metrics)
    stack.push_async_callback(store.aclose)
    ids = Ids(clock, after=await store.newest_id())
    operator_client, public_client = _open_http_clients(settings, stack)
    redactor = Redactor([*secrets_in(settings), admin_token(settings)])
    logs.hide_secrets(redactor)
    kling = KlingClient(settings.kling, http_client=operator_client, clock=clock, redactor=redactor)
    tracing = await stack.enter_async_context(open_tracing(store.traces, os.environ))
    context = make_context(
        settings, store, kling, redactor, tracing, clock=clock, ids=ids, rng=SystemRandom(), metrics=metrics
    )
    lanes = _build_lanes(context, operator_client, public_client)
    tasks, deliveries = build_tasks(context), build_deliveries(context, lanes)
    objects = await _open_object_store(settings, stack)
    results = build_results(context, objects)
    work = {**deliveries.work, **tasks.work, **_maintenance(context, tasks, results)}
    work |= await _build_archive(context, public_client, objects, results.previews)
    supervisor = Supervisor(broken=store.broken, work=work, notifiers=context.notifiers)
    readiness = _readiness(context, supervisor)
    supervisor.add_work(build_reports(context, deliveries, operator_client, readiness=readiness))
    services = admin_services(
        context,
        tasks,
        deliveries,
        find_sender=lanes.sender,
        readiness=readiness,
        results=results,
        origins=origins,
    )
    supervisor.set_listeners(**_listeners(context, tasks.inbox, services, sockets))
    return supervisor


def _maintenance(context: Context, tasks: TaskServices, results: ResultServices) -> Mapping[str, Work]:
    """Return the work that watches and cleans up."""
    store, clock = context.store, context.clock
    retention = Retention(store.retention, context.settings.retention, clock=clock, previews=results.previews)
    return {
        **results.work,
        "disk_monitor": DiskMonitor(store.disk_space, tasks.alerts, clock=clock).run,
        "retention": retention.run,
        "measurements": build_measurements(context, tasks.inbox).run,
    }


def _readiness(context: Context, supervisor: Supervisor) -> ReadinessCheck:
    readiness = with_disk_check(supervisor.readiness, context.store.disk_space.shortage)
    folder = context.settings.archive.dir
    return readiness if folder is None else with_archive_check(readiness, FolderCheck(folder).problem)


def _build_lanes(context: Context, operator_client: HttpClient, public_client: HttpClient) -> LaneRegistry:
    pending = pending_counter(context.store.catalog)
    return LaneRegistry(context.settings, operator_client, public_client, context.redactor, count_pending=pending)


async def _open_object_store(settings: Settings, stack: AsyncExitStack) -> S3Storage | None:
    """Open the object store that results are copied to, if one is configured."""
    storage = settings.archive.storage
    return await stack.enter_async_context(open_s3(storage, guard=OperatorGuard())) if storage.url else None


async def _build_archive(
    context: Context, http_client: HttpClient, objects: S3Storage | None, previews: Previews
) -> Mapping[str, Work]:
    """Build the work that archives results, if the archive is on."""
    settings = context.settings
    if not settings.archive.is_on:
        await abandon(context.store.archive, clock=context.clock)
        return {}
    copy_target = None
    if objects is not None:
        copy_target = CopyTarget(storage=objects, remove_local=settings.archive.dir is None)
    has_key = bool(settings.kling.api_key or settings.kling.access_key)
    refresher = ResultRefresher(context.kling) if has_key else None
    folder = settings.archive.dir
    if folder is not None and (problem := await FolderCheck(folder).problem()):
        log.error("archive.not_writable", reason=problem)
    fetcher = Fetcher(http_client)
    archiver = build_archiver(context, fetcher, refresher=refresher, copy_target=copy_target, previews=previews)
    return {"archiver": archiver.run}


def _listeners(
    context: Context, inbox: Inbox, services: AdminServices, sockets: Mapping[str, Sequence[socket.socket]]
) -> Mapping[str, Listener]:
    settings = context.settings
    admin = admin_app(
        services,
        token=admin_token(settings),
        read_token=settings.admin.read_token,
        listen=settings.admin.listen,
        hosts=settings.admin.hosts,
        named_tokens=settings.admin.tokens,
    )
    proxies = TrustedProxies(settings.public.proxies)
    public = public_app(
        context.tracing.callbacks(inbox),
        max_body=settings.callbacks.max_body,
        allowed_hosts=_public_hosts(settings),
        proxies=proxies,
        probes=services.probes,
        metrics=context.metrics,
        known_tokens=context.store.tasks.known_tokens,
    )
    return {
        "public": _listener("public", public, settings.public.listen, sockets, ConnectionLimits(proxies=proxies)),
        "admin": _listener("admin", context.tracing.submits(admin), settings.admin.listen, sockets, _ADMIN_LIMITS),
    }


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


def _open_http_clients(settings: Settings, stack: AsyncExitStack) -> tuple[HttpClient, HttpClient]:
    """Return the client for URLs of the operator, and the client for URLs of untrusted parties."""
    agent = f"kling-receiver/{__version__}"
    operator = HttpClient(guard=OperatorGuard(), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    public = HttpClient(guard=PublicGuard(settings.network.allow), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    stack.push_async_callback(operator.aclose)
    stack.push_async_callback(public.aclose)
    return operator, public
