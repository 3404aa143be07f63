"""The services that the console's pages call: those of the admin API."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from receiver.domain.clock import Clock
from receiver.domain.notifier import Notifier
from receiver.settings import Dialect, EffectiveSetting, RouteSettings
from receiver.store.interfaces import Catalog, Overview, SessionStore, Totals
from receiver.tasks.explain import Explainer
from receiver.web.gauges import SlotLimits
from receiver.web.resources.alerts import AlertService
from receiver.web.resources.batches import BatchService
from receiver.web.resources.costs import CostStore
from receiver.web.resources.health import ReadinessCheck
from receiver.web.resources.replays import ReplayService
from receiver.web.resources.results import ResultApi
from receiver.web.resources.route_tests import RouteTestApi
from receiver.web.resources.routes import RouteStates, RouteStateStore
from receiver.web.resources.tasks import Submitter

SlotsInUse: TypeAlias = Callable[[], Awaitable[Mapping[str, int]]]
"""Returns the slots that running tasks use, by slot key."""


class ConsoleSources(msgspec.Struct, frozen=True, kw_only=True):
    """What only the console reads. ``configuration`` returns the settings in force, with masked secrets."""

    overview: Overview
    totals: Totals
    sessions: SessionStore
    slot_limits: SlotLimits
    slots_in_use: SlotsInUse
    configuration: Callable[[], Sequence[EffectiveSetting]]
    dialect: Dialect


class ConsoleServices(Protocol):
    """What the pages read from and act with."""

    @property
    def submitter(self) -> Submitter:
        """Submits, cancels and retries tasks."""
        ...

    @property
    def catalog(self) -> Catalog:
        """Reads everything stored."""
        ...

    @property
    def routes(self) -> Sequence[RouteSettings]:
        """The configured routes."""
        ...

    @property
    def route_state_store(self) -> RouteStateStore:
        """Reads the states of routes."""
        ...

    @property
    def route_states(self) -> RouteStates:
        """Holds and releases routes."""
        ...

    @property
    def replays(self) -> ReplayService:
        """Delivers past events again."""
        ...

    @property
    def batches(self) -> BatchService:
        """Manages batches."""
        ...

    @property
    def costs(self) -> CostStore:
        """Sums costs."""
        ...

    @property
    def alerts(self) -> AlertService:
        """Lists and acknowledges alerts."""
        ...

    @property
    def console(self) -> ConsoleSources:
        """What only the console reads."""
        ...

    @property
    def explainer(self) -> Explainer:
        """Explains a task."""
        ...

    @property
    def route_tests(self) -> RouteTestApi:
        """Sends sample events."""
        ...

    @property
    def event_notifier(self) -> Notifier:
        """Notifies after events were committed."""
        ...

    @property
    def readiness(self) -> ReadinessCheck:
        """Checks the service's conditions."""
        ...

    @property
    def results(self) -> ResultApi:
        """Sends archived files, and lists results."""
        ...

    @property
    def clock(self) -> Clock:
        """The time."""
        ...
