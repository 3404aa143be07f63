"""The services that the console's pages call: those of the admin API."""

from collections.abc import Sequence
from typing import Protocol

from receiver.domain.clock import Clock
from receiver.domain.notifier import Notifier
from receiver.settings import RouteSettings
from receiver.store.interfaces import Catalog
from receiver.tasks.explain import Explainer
from receiver.web.resources.batches import BatchService
from receiver.web.resources.costs import CostStore
from receiver.web.resources.health import ReadinessCheck
from receiver.web.resources.replays import ReplayService
from receiver.web.resources.routes import FindSender, RouteStates, RouteStateStore
from receiver.web.resources.tasks import Submitter


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
    def explainer(self) -> Explainer:
        """Explains a task."""
        ...

    @property
    def find_sender(self) -> FindSender:
        """Finds a route's sender."""
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
    def clock(self) -> Clock:
        """The time."""
        ...
