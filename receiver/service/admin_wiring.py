"""Builds what the admin listener serves: the API, the gateway and the console. The service and the tests share it."""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypedDict, Unpack

from msgspec.structs import replace

from receiver.domain.duties import Duty
from receiver.domain.slot_keys import SlotLimit
from receiver.service.context import Context
from receiver.service.nodes.node_list import only_node
from receiver.service.wiring import DeliveryServices, ResultServices, TaskServices, build_results
from receiver.settings.export import list_settings
from receiver.tasks.explain import Explainer
from receiver.tasks.trigger import TriggerService
from receiver.web.admin import AdminServices
from receiver.web.console.services import ConsoleSources
from receiver.web.probes import ProbeRegistry
from receiver.web.resources.config import Reloads
from receiver.web.resources.diagnostics import Diagnose
from receiver.web.resources.health import ReadinessCheck
from receiver.web.resources.metrics import MetricsApi
from receiver.web.resources.results import ResultApi
from receiver.web.resources.route_tests import RouteTestApi
from receiver.web.resources.routes import FindSender

if TYPE_CHECKING:
    from receiver.service.nodes.node import Node


class RunningParts(TypedDict):
    """The parts of the admin app that belong to the running service."""

    readiness: ReadinessCheck
    diagnose: Diagnose
    probes: ProbeRegistry
    reloads: Reloads


def admin_services(
    context: Context,
    tasks: TaskServices,
    deliveries: DeliveryServices,
    *,
    find_sender: FindSender,
    results: ResultServices | None = None,
    node: "Node | None" = None,
    origins: Mapping[str, str] = MappingProxyType({}),
    **running: Unpack[RunningParts],
) -> AdminServices:
    """Return the services that the admin app calls. *origins* is where each setting came from, unless a default."""
    results = results or build_results(context)
    store, clock, routes = context.store, context.clock, context.settings.routes
    return AdminServices(
        submitter=tasks.submitter,
        deleter=results.deleter,
        gateway_creates=tasks.gateway_creates if node is None else node.creates(tasks.gateway_creates),
        kling=context.kling,
        catalog=store.catalog,
        routes=routes,
        route_state_store=store.deliveries,
        route_states=deliveries.route_states if node is None else node.routes(deliveries.route_states),
        replays=deliveries.replays,
        batches=tasks.batches,
        alerts=tasks.alert_service,
        costs=store.costs,
        bill=tasks.bill,
        explainer=_explainer(context),
        console=_console_sources(context, tasks, origins),
        route_tests=_route_tests(context, find_sender),
        trigger=_trigger(context),
        event_notifier=context.notifiers.events,
        nodes=partial(only_node, context.settings, context.started_at, clock) if node is None else node.all_nodes,
        **running,
        results=ResultApi(store.results, store.catalog, results.previews),
        metrics=_metrics_api(context, tasks),
        clock=clock,
        ids=context.ids,
    )


def _explainer(context: Context) -> Explainer:
    store, routes = context.store, [route.name for route in context.settings.routes]
    return Explainer(store.catalog, store.tasks, store.deliveries, routes=routes, clock=context.clock)


def _metrics_api(context: Context, tasks: TaskServices) -> MetricsApi:
    return MetricsApi(
        context.metrics,
        context.store.totals,
        slot_limits=partial(_slot_limits, context, tasks),
        routes=[route.name for route in context.settings.routes],
        clock=context.clock,
    )


def _slot_limits(context: Context, tasks: TaskServices) -> Sequence[SlotLimit]:
    """Return the limits of slots on the node that knows them; empty on others."""
    return tasks.executor.admission.slot_limits() if context.tenures[Duty.KLING].is_held else ()


def _shown_slot_limits(context: Context, tasks: TaskServices) -> Sequence[SlotLimit]:
    """Return the limits of slots. Another node than the one that sends tasks knows only the configured ones."""
    limits = tasks.executor.admission.slot_limits()
    return limits if context.tenures[Duty.KLING].is_held else [replace(each, learned=None) for each in limits]


def _console_sources(context: Context, tasks: TaskServices, origins: Mapping[str, str]) -> ConsoleSources:
    store = context.store
    return ConsoleSources(
        overview=store.overview,
        totals=store.totals,
        sessions=store.sessions,
        slot_limits=partial(_shown_slot_limits, context, tasks),
        slots_in_use=store.tasks.slots_in_use,
        configuration=partial(list_settings, context.settings, origins),
        dialect=context.settings.kling.dialect,
    )


def _route_tests(context: Context, find_sender: FindSender) -> RouteTestApi:
    settings = context.settings
    return RouteTestApi(
        settings.routes,
        find_sender=find_sender,
        catalog=context.store.catalog,
        verify=settings.callbacks.verify,
        samples_folder=settings.data_dir / "samples",
        clock=context.clock,
        ids=context.ids,
    )


def _trigger(context: Context) -> TriggerService:
    return TriggerService(
        context.store.tasks,
        context.event_factory,
        notifiers=context.notifiers,
        clock=context.clock,
        ids=context.ids,
    )
