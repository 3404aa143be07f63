"""Opens what the service needs, builds it from its configuration and runs it.

Resources are closed in reverse order of opening, so the store opens first and closes last.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

import structlog

from receiver import __version__
from receiver.archive.archiver import CopyTarget, abandon
from receiver.archive.fetcher import Fetcher
from receiver.archive.folder_check import FolderCheck
from receiver.archive.previews import Previews
from receiver.delivery.lane_registry import LaneRegistry
from receiver.delivery.senders.process import kill_orphans
from receiver.domain.clock import AdjustedClock, Clock, Ids, SystemClock
from receiver.domain.duties import ALWAYS_HELD
from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.domain.redaction import Redactor
from receiver.kling.client import KlingClient
from receiver.kling.route_globs import unmatched_globs
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.service import logs
from receiver.service.admin_token import TOKEN_FILE, admin_token
from receiver.service.context import Context, make_context
from receiver.service.disk_monitor import DiskMonitor
from receiver.service.listeners import Listeners
from receiver.service.measurements import LoopLag, MissedCallbacks
from receiver.service.reload import Configurable, Reloader
from receiver.service.retention import Retention
from receiver.service.session_ends import SessionEnds
from receiver.service.sighup import SighupHandler
from receiver.service.startup_gate import Obstacle, StartupGate
from receiver.service.startup_progress import report_progress
from receiver.service.stores import Store, open_store, server_problem
from receiver.service.supervisor import Supervisor, Work
from receiver.service.systemd import SystemdNotifier, listen_fds
from receiver.service.tracing import NO_TRACING, Tracing, is_requested
from receiver.service.wiring import (
    ResultServices,
    TaskServices,
    build_archiver,
    build_deliveries,
    build_reports,
    build_results,
    build_tasks,
    pending_counter,
)
from receiver.settings import Loaded, Settings, secrets_in
from receiver.settings.store_url import SQLITE
from receiver.store.disk import real_path
from receiver.tracking.result_refresher import ResultRefresher
from receiver.web.resources.health import ReadinessCheck, with_archive_check, with_disk_check

if TYPE_CHECKING:
    from receiver.archive.s3 import S3Storage
    from receiver.service.nodes.node import Node

log = structlog.get_logger()

_MAX_CONNECTIONS = 1000
_GC_THRESHOLD = 10_000
"""New objects between two collections. Python's 700 are those of ten callbacks, and hardly any has a cycle."""


def run(loaded: Loaded, sighup: SighupHandler | None = None) -> int:
    """Run the service until it is stopped, and return the process's exit code.

    Raises ReceiverError if it cannot start.
    """
    import uvloop  # noqa: PLC0415 -- commands that print a help text or a table do not need it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run_until_stopped(loaded, sighup))


def _log_start(loaded: Loaded) -> None:
    """Log what a reader of the log needs first: the version, the files, and where programs send their creates."""
    settings = loaded.settings
    log.info(
        "service.starting",
        version=__version__,
        configuration=str(loaded.path or "the defaults"),
        store=settings.store.url.removeprefix(SQLITE),
        admin_token="configured" if settings.admin.token else str(settings.data_dir / TOKEN_FILE),
        gateway=f"http://{settings.admin.listen}/kling",
        ends_by="callbacks and polls" if settings.public.url else "polls alone",
    )


async def run_until_stopped(loaded: Loaded, sighup: SighupHandler | None = None) -> int:
    """Run the service on this event loop until it is stopped, and return the process's exit code."""
    sighup = sighup or SighupHandler()
    sighup.watch()
    logs.set_configured_level(loaded.settings.log.level)
    _log_start(loaded)
    for warning in (*loaded.warnings, *unmatched_globs(loaded)):
        log.warning("configuration.warned", warning=warning)
    systemd = SystemdNotifier.from_environment()
    reloader = Reloader(loaded, requested=sighup.requested, systemd=systemd, clock=SystemClock())
    async with AsyncExitStack() as stack:
        supervisor = await _build_when_store_opens(loaded.settings, stack, systemd, reloader)
        if supervisor is None:
            return 0
        gc.freeze()  # these objects live forever, and each collection of them would block the loop for about 30 ms
        gc.enable()
        gc.set_threshold(_GC_THRESHOLD)
        if killed := await kill_orphans():
            log.warning("scripts.killed", processes=killed, reason="The receiver that started them was killed.")
        return await supervisor.run(systemd)


async def _build_when_store_opens(
    settings: Settings, stack: AsyncExitStack, systemd: SystemdNotifier, reloader: Reloader
) -> Supervisor | None:
    """Build the service, after waiting while the disk is full or the server away. Return None if stopped before."""
    addresses = {"public": settings.public.listen, "admin": settings.admin.listen}
    gate = StartupGate(real_path(settings.data_dir), addresses, listen_fds(), systemd=systemd, clock=SystemClock())
    while True:
        try:
            async with AsyncExitStack() as attempt:
                supervisor = await build_service(settings, gate.sockets, attempt, reloader, systemd)
                stack.push_async_exit(attempt.pop_all())
                return supervisor
        except (StoreUnavailable, OSError):
            if gate.is_disk_full():
                starts = await gate.wait_for_disk()
            elif await server_problem(settings) is not None:
                starts = await gate.wait(_server_away(settings))
            else:
                raise
        if not starts:
            return None


def _server_away(settings: Settings) -> Obstacle:
    return Obstacle(
        find=partial(server_problem, settings),
        waiting="service.waiting_for_store",
        over="service.store_recovered",
        reason="The PostgreSQL server cannot be reached",
        where="the log says why",
    )


async def build_service(
    settings: Settings,
    sockets: Mapping[str, Sequence[socket.socket]],
    stack: AsyncExitStack,
    reloader: Reloader,
    systemd: SystemdNotifier,
) -> Supervisor:
    """Open the store, the HTTP clients and the listeners, and build the service. *stack* closes them."""
    context, node, kling, operator_client, public_client = await _open_context(settings, stack, systemd)
    lanes = _build_lanes(context, operator_client, public_client)
    tasks, deliveries = build_tasks(context), build_deliveries(context, lanes)
    objects = await _open_object_store(settings, stack)
    results = build_results(context, objects)
    deletions, deleting = _build_deletions(context, results)
    work = {**deliveries.work, **tasks.work, **_maintenance(context, tasks, results)}
    work |= {**deletions, "reload": reloader.run}
    work |= await _build_archive(context, public_client, objects, results.previews)
    supervisor = Supervisor(broken=context.store.broken, work={}, notifiers=context.notifiers)
    readiness = _readiness(context, supervisor)
    if node is not None:
        readiness = node.with_check(readiness)
    work |= build_reports(context, operator_client, readiness=readiness, routes=reloader.routes)
    supervisor.add_work(work if node is None else node.assign(work, context, tasks, deliveries))
    listeners = Listeners(
        context,
        tasks,
        deliveries,
        lanes,
        node=node,
        readiness=readiness,
        results=results,
        reloader=reloader,
        sockets=sockets,
    )
    supervisor.set_listeners(public=listeners.public, admin=listeners.admin)
    parts: list[Configurable] = [context, listeners, lanes, kling, *deleting, *tasks.configurable, deliveries.replays]
    reloader.connect(parts, catalog=context.store.catalog, notifiers=context.notifiers)
    return supervisor


def _build_deletions(context: Context, results: ResultServices) -> tuple[Mapping[str, Work], Sequence[Configurable]]:
    """Build what deletes old data and ended sessions. Return its work and its parts."""
    store, settings, clock = context.store, context.settings, context.clock
    retention = Retention(store.retention, settings.retention, clock=clock, previews=results.previews)
    reloads = context.notifiers.replays  # a reload wakes every notifier; of these, it is the rarest
    session_ends = SessionEnds(store.sessions, settings, notifier=reloads, clock=clock)
    work = {
        "session_ends": session_ends.run,
        "retention": retention.run,
        "old_previews": retention.run_previews,
    }
    return work, [session_ends, retention]


async def _open_context(
    settings: Settings, stack: AsyncExitStack, systemd: SystemdNotifier
) -> "tuple[Context, Node | None, KlingClient, HttpClient, HttpClient]":
    """Open the store, then the HTTP clients. Return the context, the node on PostgreSQL, and the clients."""
    clock = AdjustedClock() if settings.store.url.is_postgres else SystemClock()
    metrics = Metrics([route.name for route in settings.routes])
    async with report_progress(systemd) as report:
        store = await open_store(settings, metrics=metrics, report=report)
    stack.push_async_callback(store.aclose)
    ids = Ids(clock, after=await store.newest_id())
    node = None if store.between_nodes is None else await _join_nodes(store, settings, clock, ids)
    operator_client, public_client = _open_http_clients(settings, stack)
    redactor = Redactor([*secrets_in(settings), admin_token(settings)])
    logs.hide_secrets(redactor)
    kling = KlingClient(settings.kling, http_client=operator_client, clock=clock, redactor=redactor)
    tracing = await _open_tracing(store, stack)
    context = make_context(
        settings,
        store,
        kling,
        redactor,
        tracing,
        clock=clock,
        ids=ids,
        rng=SystemRandom(),
        metrics=metrics,
        tenures=ALWAYS_HELD if node is None else node.tenures,
    )
    return context, node, kling, operator_client, public_client


async def _join_nodes(store: Store, settings: Settings, clock: Clock, ids: Ids) -> "Node":
    from receiver.service.nodes.node import Node  # noqa: PLC0415 -- on SQLite there are no other nodes

    return await Node.join(store, settings, clock=clock, ids=ids)


async def _open_tracing(store: Store, stack: AsyncExitStack) -> Tracing:
    if not is_requested(os.environ):
        return NO_TRACING
    from receiver.service.open_telemetry import open_tracing  # noqa: PLC0415 -- most services have no traces

    return await stack.enter_async_context(open_tracing(store.traces, os.environ))


def _maintenance(context: Context, tasks: TaskServices, results: ResultServices) -> Mapping[str, Work]:
    """Return the work that watches and cleans up."""
    work = {**results.work, "loop_lag": LoopLag(context.metrics, clock=context.clock).run}
    if context.settings.public.url:  # without it no callback is expected, so none can be missed
        missed = MissedCallbacks(context.store.totals, count=lambda: tasks.inbox.missed_callbacks, clock=context.clock)
        work["missed_callbacks"] = missed.run
    disk = context.store.disk_space
    return work if disk is None else work | {"disk_monitor": DiskMonitor(disk, tasks.alerts, clock=context.clock).run}


def _readiness(context: Context, supervisor: Supervisor) -> ReadinessCheck:
    disk = context.store.disk_space
    readiness = supervisor.readiness if disk is None else with_disk_check(supervisor.readiness, disk.shortage)
    folder = context.settings.archive.dir
    return readiness if folder is None else with_archive_check(readiness, FolderCheck(folder).problem)


def _build_lanes(context: Context, operator_client: HttpClient, public_client: HttpClient) -> LaneRegistry:
    pending = pending_counter(context.store.catalog)
    return LaneRegistry(context.settings, operator_client, public_client, context.redactor, count_pending=pending)


async def _open_object_store(settings: Settings, stack: AsyncExitStack) -> "S3Storage | None":
    """Open the object store that results are copied to, if one is configured."""
    storage = settings.archive.storage
    if not storage.url:
        return None
    from receiver.archive.s3 import open_s3  # noqa: PLC0415 -- most archives are folders

    return await stack.enter_async_context(open_s3(storage, guard=OperatorGuard()))


async def _build_archive(
    context: Context, http_client: HttpClient, objects: "S3Storage | None", previews: Previews
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


def _open_http_clients(settings: Settings, stack: AsyncExitStack) -> tuple[HttpClient, HttpClient]:
    """Return the client for URLs of the operator, and the client for URLs of untrusted parties."""
    agent = f"kling-receiver/{__version__}"
    operator = HttpClient(guard=OperatorGuard(), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    public = HttpClient(guard=PublicGuard(settings.network.allow), user_agent=agent, max_connections=_MAX_CONNECTIONS)
    stack.push_async_callback(operator.aclose)
    stack.push_async_callback(public.aclose)
    return operator, public
