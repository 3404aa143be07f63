"""What a daily report is made from. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from receiver.domain.model import RouteState, TaskState


class LastReport(msgspec.Struct, frozen=True, kw_only=True):
    """The last report: its local day, when it was made, and the total of missed callbacks at that time."""

    day: str
    at: datetime
    callbacks_missed: float


class ReportFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a period, and what is so at its end.

    ``ended`` counts tasks by the state they ended in. ``spent`` is by unit. ``dead`` counts, by route, the deliveries
    that died and were not delivered again. ``callbacks_missed`` is the total since the store exists.
    """

    ended: Mapping[TaskState, int]
    spent: Mapping[str, Decimal]
    dead: Mapping[str, int]
    callbacks_missed: float
    held: Sequence[RouteState]
    pending: int
    alerts_open: int
    alerts_acknowledged: int
