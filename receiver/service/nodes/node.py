"""One of several processes on a PostgreSQL database: its name, its duties, and what it asks of the others."""

from collections.abc import Mapping, Sequence
from typing import Self

import structlog

from receiver import __version__
from receiver.domain.api_schema import resources
from receiver.domain.api_schema.resources import Check
from receiver.domain.clock import AdjustedClock, Clock, Ids
from receiver.domain.duties import Duty, Tenure, Tenures
from receiver.domain.errors import ConfigurationError
from receiver.service.context import Context
from receiver.service.nodes.calls import CallServer, Handler, NodeCalls
from receiver.service.nodes.duty_holder import DutyHolder
from receiver.service.nodes.duty_plan import LeaseTiming
from receiver.service.nodes.duty_work import DutyWork, available
from receiver.service.nodes.node_list import listed, node_name
from receiver.service.nodes.node_session import NodeSession
from receiver.service.nodes.registration import register
from receiver.service.nodes.remote_services import (
    Creates,
    NodeCreates,
    NodeRoutes,
    Routes,
    create_handlers,
    route_handlers,
)
from receiver.service.nodes.signals import NodeSignals
from receiver.service.stores import Store
from receiver.service.supervisor import Work
from receiver.service.wiring import DeliveryServices, TaskServices
from receiver.settings import Settings
from receiver.store.interfaces.node_calls import NodeLinks
from receiver.store.interfaces.nodes import NodeIdentity, NodesView
from receiver.web.resources.health import ReadinessCheck

log = structlog.get_logger()

DUTY_OF_WORK: Mapping[str, Duty] = {
    "poller": Duty.KLING,
    "callback_health": Duty.KLING,
    "missed_callbacks": Duty.KLING,
    "recovery": Duty.KLING,
    "submitter": Duty.KLING,
    "dispatcher": Duty.DELIVERING,
    "replay": Duty.DELIVERING,
    "archiver": Duty.ARCHIVING,
    "batches": Duty.HOUSEKEEPING,
    "bill": Duty.HOUSEKEEPING,
    "alerts": Duty.HOUSEKEEPING,
    "report": Duty.HOUSEKEEPING,
    "heartbeat": Duty.HOUSEKEEPING,
    "retention": Duty.HOUSEKEEPING,
    "removals": Duty.HOUSEKEEPING,
}
"""The work that one node does at a time. Every node does the rest."""


class Node:
    """The part of this process that knows of other nodes."""

    def __init__(
        self, store: Store, links: NodeLinks, identity: NodeIdentity, *, clock: Clock, ids: Ids, timing: LeaseTiming
    ) -> None:
        self.identity = identity
        self.tenures: Tenures = {duty: Tenure(clock.monotonic) for duty in Duty}
        self._store = store
        self._links = links
        self._clock = clock
        self._ids = ids
        self._timing = timing
        self._view: NodesView | None = None
        self._seen_at = float("-inf")
        self._calls: NodeCalls | None = None

    @classmethod
    async def join(cls, store: Store, settings: Settings, *, clock: Clock, ids: Ids) -> Self:
        """Register this process. Raises StoreLocked and ConfigurationError if it must not start."""
        links = store.between_nodes
        assert links is not None  # noqa: S101 -- the caller knows that the store is for several processes
        identity = NodeIdentity(name=node_name(settings), instance=ids.new("nod"), version=__version__)
        node = cls(store, links, identity, clock=clock, ids=ids, timing=LeaseTiming())
        await register(links.nodes, identity, timing=node._timing)
        view = await links.nodes.nodes()
        node._refuse_own_archive(view, settings)
        node._adjust_clock(view)
        return node

    def creates(self, local: Creates) -> NodeCreates:
        """Return what sends gateway clients' creates from the node that submits tasks."""
        return NodeCreates(local, self._connected(), self.tenures[Duty.KLING])

    def routes(self, local: Routes) -> NodeRoutes:
        """Return what holds and releases routes on the node that delivers."""
        return NodeRoutes(local, self._connected(), self.tenures[Duty.DELIVERING])

    def assign(
        self, work: Mapping[str, Work], context: Context, tasks: TaskServices, deliveries: DeliveryServices
    ) -> Mapping[str, Work]:
        """Return the work of this node: that of duties runs while it holds them."""
        notifiers, clock = context.notifiers, self._clock
        self._calls = NodeCalls(
            self._links.calls, holder_of=self.holder_of, notifier=notifiers.calls, clock=clock, ids=self._ids
        )
        handlers = {
            Duty.KLING: create_handlers(tasks.gateway_creates),
            Duty.DELIVERING: route_handlers(deliveries.route_states),
        }
        works = {}
        for duty, tenure in self.tenures.items():
            parts = {name: part for name, part in work.items() if DUTY_OF_WORK.get(name) is duty}
            if duty in handlers:
                parts[f"calls.{duty}"] = self._call_server(duty, handlers[duty], context).run
            works[duty] = DutyWork(duty, parts, tenure, notifiers=notifiers, clock=clock)
        holder = DutyHolder(
            self._links.nodes,
            self.identity,
            works,
            NodeSession(self._links.nodes, self.identity, monotonic=clock.monotonic),
            before_start=self._pass_over_ids,
            on_view=self._see,
            timing=self._timing,
            monotonic=clock.monotonic,
        )
        signals = NodeSignals(self._links.signals, notifiers, self.identity.instance, has_others=self.has_others)
        own = {name: available(clock, name, part) for name, part in work.items() if name not in DUTY_OF_WORK}
        return {**own, "signals": signals.run, "duties": holder.run}

    def holder_of(self, duty: Duty) -> str | None:
        """Return the instance that holds a duty, as far as this node knows."""
        leases = () if self._view is None else self._view.leases
        return next((lease.instance for lease in leases if lease.duty is duty and not lease.has_ended), None)

    async def all_nodes(self) -> Sequence[resources.Node]:
        """Return all nodes, with their duties."""
        return listed(await self._links.nodes.nodes(), silent_after=self._timing.lifetime)

    def has_others(self) -> bool:
        """Return whether other nodes live, as far as this node knows."""
        return self._view is None or len(self._live(self._view)) > 1

    def with_check(self, check_readiness: ReadinessCheck) -> ReadinessCheck:
        """Add a check that fails while this node has no contact with the database."""

        async def checks() -> list[Check]:
            silence = self._clock.monotonic() - self._seen_at
            is_in_contact = silence < self._timing.lifetime.total_seconds()
            reason = "" if is_in_contact else "The database does not answer. See the log."
            return [*await check_readiness(), Check(name="node", ok=is_in_contact, reason=reason)]

        return checks

    def _connected(self) -> NodeCalls:
        assert self._calls is not None  # noqa: S101 -- its work is assigned before anything is served
        return self._calls

    def _call_server(self, duty: Duty, handlers: Mapping[str, Handler], context: Context) -> CallServer:
        return CallServer(
            self._links.calls,
            duty,
            handlers,
            instance=self.identity.instance,
            notifier=context.notifiers.calls,
            clock=self._clock,
        )

    async def _pass_over_ids(self) -> None:
        """Make new ids sort after those of other nodes, whose clocks may be ahead."""
        self._ids.pass_over(await self._store.newest_id())

    def _see(self, view: NodesView) -> None:
        self._view, self._seen_at = view, self._clock.monotonic()
        self._adjust_clock(view)

    def _adjust_clock(self, view: NodesView) -> None:
        """Adopt the database's clock. A delivery that a node with a fast clock made must be due for the others too."""
        own = next((node for node in view.nodes if node.instance == self.identity.instance), None)
        if own is not None and isinstance(self._clock, AdjustedClock) and self._clock.adjust(own.seen_at + own.silence):
            log.warning("clock.adjusted", by_seconds=round(self._clock.offset.total_seconds(), 1))

    def _live(self, view: NodesView) -> list[str]:
        return [node.name for node in view.nodes if node.silence < self._timing.lifetime]

    def _refuse_own_archive(self, view: NodesView, settings: Settings) -> None:
        """Refuse a folder for results that only this node has, if there are other nodes."""
        archive = settings.archive
        others = [name for name in self._live(view) if name != self.identity.name]
        if archive.dir is None or archive.shared or archive.storage.url or not others:
            return
        fault = (
            f"archive.dir: other nodes use this database ({', '.join(others)}), and they would not find the files "
            f"in {archive.dir}; set [archive.storage], or archive.shared = true if all nodes have the same folder"
        )
        raise ConfigurationError([fault])
