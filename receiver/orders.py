"""What people ask of the service, as frozen values: an action that is done, a replay that takes its time."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from receiver.model import DeliveryStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a person did: ``verb`` says what (``route.held``), ``subject`` to which thing, ``note`` why."""

    at: datetime
    actor: str
    verb: str
    subject: str
    note: str = ""


class ReplayState(StrEnum):
    """Where a replay stands."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is to go out again; all that is given must hold.

    It is about deliveries that are over, each to its own route or all to ``to_route``. Where only a ``to_route``
    says where, it is about events, whether or not they went anywhere before, as far as that route's ``words``
    name them. Each event goes once to each route. ``among`` are the routes there are.
    """

    deliveries: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    task_id: str | None = None
    route: str | None = None
    statuses: tuple[DeliveryStatus, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    to_route: str | None = None
    words: tuple[str, ...] = ()
    among: tuple[str, ...] = ()

    @property
    def is_of_events(self) -> bool:
        """Whether events are chosen, and not what became of them."""
        return self.to_route is not None and not (self.deliveries or self.route or self.statuses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A person's wish that events go out again, and how far it has come.

    It goes through what there was when it was asked for, up to ``last``, by id; ``cursor`` is the last one done.
    """

    id: str
    state: ReplayState
    selection: Selection
    actor: str
    why: str
    last: str
    total: int
    created_at: datetime
    rate: tuple[int, timedelta] | None = None
    cursor: str = ""
    created: int = 0
    finished_at: datetime | None = None
