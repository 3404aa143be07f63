"""A replay: past events that are delivered again on request."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from receiver.domain.model import Delivery, DeliveryStatus


class ReplayState(StrEnum):
    """The state of a replay."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class ReplaySelection(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of a replay; every given condition must match.

    Normally it selects finished deliveries, each for its own route or all for ``to_route``. If ``to_route`` is the
    only condition on routes or deliveries, it selects events, delivered before or not. ``event_kinds``, from that
    route's ``on``, then limits them. Each event is replayed once per route. ``known_routes`` are the configured ones.
    """

    deliveries: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    task_id: str | None = None
    route: str | None = None
    statuses: tuple[DeliveryStatus, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    to_route: str | None = None
    event_kinds: tuple[str, ...] = ()
    known_routes: tuple[str, ...] = ()

    @property
    def selects_events(self) -> bool:
        """Whether the replay selects events instead of past deliveries."""
        return self.to_route is not None and not (self.deliveries or self.route or self.statuses)


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A requested replay and its progress.

    It covers what existed when it was requested: ids up to ``last``. ``cursor`` is the last id processed.
    """

    id: str
    state: ReplayState
    selection: ReplaySelection
    actor: str
    why: str
    last: str
    total: int
    created_at: datetime
    rate: tuple[int, timedelta] | None = None
    cursor: str = ""
    created: int = 0
    finished_at: datetime | None = None


class ReplayItem(msgspec.Struct, frozen=True, kw_only=True):
    """One event to deliver to one route again. ``position`` is its place in the replay's order."""

    position: str
    event_id: str
    event_type: str
    task_id: str | None
    route: str
    replay_of: str | None
    created_at: datetime


class ReplayCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many selected items one route has in one status. ``status`` is None if the replay selects events."""

    route: str
    status: DeliveryStatus | None
    count: int
    oldest: datetime
    newest: datetime


class ReplayStep(msgspec.Struct, frozen=True, kw_only=True):
    """New deliveries that advance *replay* to ``cursor``. The last step has a ``finished_at``."""

    replay: Replay
    deliveries: Sequence[Delivery]
    cursor: str
    finished_at: datetime | None = None
