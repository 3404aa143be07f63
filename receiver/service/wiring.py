"""Builds the parts of the service from a context. The service and the tests share this wiring."""

from collections.abc import Callable, Mapping, Sequence
from datetime import time, timedelta
from typing import TYPE_CHECKING, cast

import msgspec

from receiver.archive.archiver import Archiver, CopyTarget, UrlRefresher
from receiver.archive.deletion import TaskDeleter
from receiver.archive.fetcher import Fetcher
from receiver.archive.previews import FOLDER, Previews
from receiver.archive.reader import ArchiveReader, ObjectSource
from receiver.delivery.commit_claims import ClaimingTaskStore
from receiver.delivery.dispatcher import Dispatcher
from receiver.delivery.lane import LaneLookup
from receiver.delivery.replay import ReplayService
from receiver.delivery.route_states import RouteStates
from receiver.delivery.senders.notify import CountPending
from receiver.domain.duties import Duty
from receiver.kling.ledgers import Ledgers
from receiver.net.http_client import HttpClient
from receiver.service.context import Context
from receiver.service.heartbeat import Heartbeat
from receiver.service.reload import Configurable
from receiver.service.supervisor import Work
from receiver.settings import RouteSettings
from receiver.store.interfaces import ArchiveStore, Catalog, DeliveryQueue, TaskStore
from receiver.submission.executor import CreateExecutor
from receiver.submission.gateway_creates import GatewayCreates
from receiver.submission.held_creates import HeldCreates
from receiver.submission.recorder import CreateRecorder
from receiver.submission.recovery import CreateRecovery
from receiver.submission.submit_queue import SubmitQueue
from receiver.submission.submitter import Submitter
from receiver.tasks.alert_service import AlertService
from receiver.tasks.batches import BatchService
from receiver.tasks.bill_service import BillService
from receiver.tasks.daily_report import DailyReports
from receiver.tasks.expected_ends import ExpectedEnds
from receiver.tasks.health_alerts import HealthAlerts
from receiver.tracking.callback_health import CallbackHealth
from receiver.tracking.duration_keeper import DurationKeeper
from receiver.tracking.inbox import Inbox
from receiver.tracking.poller import Poller
from receiver.web.resources.health import ReadinessCheck

if TYPE_CHECKING:
    from receiver.archive.s3 import S3Storage

GRACE = timedelta(seconds=20)
"""How long work in flight may continue after a stop signal: longer than a webhook's timeout."""


class TaskServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services that submit and track tasks."""

    inbox: Inbox
    ends: ExpectedEnds
    health: CallbackHealth
    alerts: HealthAlerts
    recorder: CreateRecorder
    recovery: CreateRecovery
    executor: CreateExecutor
    submitter: Submitter
    gateway_creates: GatewayCreates
    poller: Poller
    durations: DurationKeeper
    batches: BatchService
    bill: BillService
    alert_service: AlertService

    @property
    def configurable(self) -> Sequence[Configurable]:
        """Those that take new settings while they run."""
        return self.inbox, self.ends, self.recovery, self.executor, self.submitter

    @property
    def work(self) -> Mapping[str, Work]:
        """Their background work."""
        return {
            "poller": self.poller.run,
            "callback_health": self.health.run,
            "durations": self.durations.run,
            "recovery": self.recovery.run,
            "submitter": self.submitter.run,
            "batches": self.batches.run,
            "bill": self.bill.run,
            "alerts": self.alert_service.run,
        }


class DeliveryServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services that deliver and replay events."""

    route_states: RouteStates
    dispatcher: Dispatcher
    replays: ReplayService

    @property
    def work(self) -> Mapping[str, Work]:
        """Their background work."""
        return {"dispatcher": self.dispatcher.run, "replay": self.replays.run}


def build_tasks(context: Context) -> TaskServices:
    """Build the services that submit and track tasks."""
    settings, store, event_factory = context.settings, context.store, context.event_factory
    notifiers, clock, ids, url = context.notifiers, context.clock, context.ids, settings.public.url
    alerts = HealthAlerts(store.tasks, store.catalog, event_factory, public_url=url, notifiers=notifiers, clock=clock)
    ends = ExpectedEnds(settings.poll, has_callbacks=bool(settings.public.url))
    health = _build_callback_health(context, ends, alerts)
    inbox = _build_inbox(context, ends, health)
    recorder = CreateRecorder(store.tasks, event_factory, ends=ends, notifiers=notifiers, clock=clock)
    recovery = _build_recovery(context, recorder)
    executor = _build_executor(context, recorder, recovery, alerts, ends)
    held = HeldCreates(store.tasks, recorder, executor.admission, wait=settings.gateway.wait, clock=clock)
    queue = SubmitQueue(
        store.tasks, executor, recorder, held, settings=settings, notifiers=notifiers, clock=clock, ids=ids
    )
    traced_store = context.tracing.submit_store(store.tasks)
    submitter = Submitter(
        traced_store, queue, executor, recorder, held, settings=settings, notifiers=notifiers, clock=clock, ids=ids
    )
    return TaskServices(
        inbox=inbox,
        alerts=alerts,
        recorder=recorder,
        recovery=recovery,
        executor=executor,
        submitter=submitter,
        gateway_creates=_build_gateway_creates(context, submitter, held),
        poller=_build_poller(context, inbox, alerts, ends),
        ends=ends,
        health=health,
        durations=DurationKeeper(store.durations, ends, health, clock=clock),
        batches=BatchService(store.batches, event_factory, notifiers=notifiers, clock=clock),
        bill=_build_bill(context, alerts),
        alert_service=AlertService(store.alerts, clock=clock),
    )


def _build_recovery(context: Context, recorder: CreateRecorder) -> CreateRecovery:
    return CreateRecovery(
        context.store.tasks,
        context.kling,
        recorder,
        context.store.catalog,
        settings=context.settings,
        notifiers=context.notifiers,
        clock=context.clock,
        tenure=context.tenures[Duty.KLING],
    )


def _build_gateway_creates(context: Context, submitter: Submitter, held: HeldCreates) -> GatewayCreates:
    store, timeout, notifier = context.store, context.settings.kling.timeout, context.notifiers.tasks
    return GatewayCreates(
        submitter, held, store.tasks, store.catalog, timeout=timeout, notifier=notifier, clock=context.clock
    )


def _build_executor(
    context: Context, recorder: CreateRecorder, recovery: CreateRecovery, alerts: HealthAlerts, ends: ExpectedEnds
) -> CreateExecutor:
    return CreateExecutor(
        context.store.tasks,
        context.kling,
        recorder,
        recovery,
        alerts,
        ends=ends,
        settings=context.settings,
        clock=context.clock,
        tracer=context.tracing.tracer,
        tenure=context.tenures[Duty.KLING],
    )


def _build_bill(context: Context, alerts: HealthAlerts) -> BillService:
    store, clock = context.store, context.clock
    ledgers = Ledgers(context.kling, clock=clock)
    return BillService(ledgers, store.costs, alerts, store.catalog, settings=context.settings.costs, clock=clock)


def _build_callback_health(context: Context, ends: ExpectedEnds, alerts: HealthAlerts) -> CallbackHealth:
    observer = alerts if context.settings.public.url else None
    return CallbackHealth(context.store.tasks, ends, observer, notifiers=context.notifiers, clock=context.clock)


def _build_poller(context: Context, inbox: Inbox, alerts: HealthAlerts, ends: ExpectedEnds) -> Poller:
    tracing, timeout = context.tracing, context.settings.kling.timeout
    return Poller(
        context.store.tasks,
        tracing.polls(context.kling),
        tracing.answers(inbox),
        alerts,
        ends,
        timeout=timeout,
        notifiers=context.notifiers,
        clock=context.clock,
        latest=lambda: context.ids.latest,
    )


def _build_inbox(context: Context, ends: ExpectedEnds, health: CallbackHealth) -> Inbox:
    settings = context.settings
    store = context.store
    tasks = ClaimingTaskStore(context.tracing.inbox_store(store.tasks), context.commit_claims, broken=store.broken)
    return Inbox(
        cast("TaskStore", tasks),
        context.event_factory,
        callbacks=settings.callbacks,
        ends=ends,
        health=health,
        notifiers=context.notifiers,
        clock=context.clock,
        ids=context.ids,
        redactor=context.redactor,
        metrics=context.metrics,
    )


def build_reports(
    context: Context,
    http_client: HttpClient,
    *,
    readiness: ReadinessCheck,
    routes: Callable[[], Sequence[RouteSettings]],
) -> Mapping[str, Work]:
    """Build the work that reports on the service: the daily report and the heartbeat, if they are configured.

    *routes* returns the present routes.
    """
    settings, store, clock = context.settings, context.store, context.clock
    work: dict[str, Work] = {}
    if settings.alerts.report_at:
        at = time.fromisoformat(settings.alerts.report_at)
        work["report"] = DailyReports(
            store.reports, context.event_factory, at=at, notifiers=context.notifiers, clock=clock
        ).run
    if settings.alerts.heartbeat is not None:
        work["heartbeat"] = Heartbeat(
            settings.alerts.heartbeat,
            http_client,
            readiness=readiness,
            commit=store.check_commit,
            route_states=store.deliveries.route_states,
            alert_routes=lambda: [route.name for route in routes() if route.on & {"alert", "*"}],
            clock=clock,
        ).run
    return work


def pending_counter(catalog: Catalog) -> CountPending:
    """Return a function that counts the pending deliveries of a route."""

    async def count(route: str) -> int:
        return next((each.pending for each in await catalog.backlog() if each.route == route), 0)

    return count


def build_deliveries(
    context: Context, lanes: LaneLookup, *, queue: DeliveryQueue | None = None, grace: timedelta = GRACE
) -> DeliveryServices:
    """Build the services that deliver events to *lanes*. The default *queue* is the store's."""
    store, notifiers, clock, ids = context.store, context.notifiers, context.clock, context.ids
    queue = queue or store.deliveries
    route_states = RouteStates(queue, context.alerts, notifiers=notifiers, clock=clock)
    dispatcher = Dispatcher(
        queue,
        context.tracing.lanes(lanes),
        route_states,
        notifier=notifiers.deliveries,
        clock=clock,
        ids=ids,
        rng=context.rng,
        grace=grace,
        metrics=context.metrics,
        tenure=context.tenures[Duty.DELIVERING],
        commit_claims=context.commit_claims,
    )
    replays = ReplayService(
        store.replays, store.catalog, routes=context.settings.routes, notifiers=notifiers, clock=clock, ids=ids
    )
    return DeliveryServices(route_states=route_states, dispatcher=dispatcher, replays=replays)


def build_archiver(
    context: Context,
    fetcher: Fetcher,
    *,
    refresher: UrlRefresher | None = None,
    copy_target: CopyTarget | None = None,
    store: ArchiveStore | None = None,
    previews: Previews | None = None,
) -> Archiver:
    """Build the archiver. The default *store* is the context's."""
    settings = context.settings
    return Archiver(
        store or context.store.archive,
        context.store.catalog,
        fetcher,
        settings.archive.dir or settings.data_dir / "arriving",
        refresher=refresher,
        copy_target=copy_target,
        alerts=context.alerts,
        notifiers=context.notifiers,
        clock=context.clock,
        rng=context.rng,
        metrics=context.metrics,
        previews=previews,
        tracer=context.tracing.tracer,
    )


def build_previews(context: Context, objects: ObjectSource | None = None) -> Previews:
    """Build the thumbnails of archived pictures. *objects* reads those that are only in the object store."""
    settings = context.settings
    return Previews((settings.archive.dir or settings.data_dir) / FOLDER, ArchiveReader(objects))


class ResultServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services that show and remove archived results."""

    previews: Previews
    deleter: TaskDeleter

    @property
    def work(self) -> Mapping[str, Work]:
        """Their background work."""
        return {"previews": self.previews.run, "removals": self.deleter.run}


def build_results(context: Context, objects: "S3Storage | None" = None) -> ResultServices:
    """Build the services for archived results. *objects* is the object store, if one is configured."""
    previews = build_previews(context, objects)
    deleter = TaskDeleter(context.store.deletions, objects=objects, previews=previews, clock=context.clock)
    return ResultServices(previews=previews, deleter=deleter)
