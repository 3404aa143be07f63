"""What monitoring reads of a store: its present state, and totals that survive a restart."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from receiver.domain.model import RouteState
from receiver.store.interfaces.catalog import RouteBacklog


class Total(StrEnum):
    """A total that is kept in the store, so that it survives a restart and the deletion of old data."""

    CALLBACKS_MISSED = "callbacks_missed"
    DELIVERIES_DEAD = "deliveries_dead"  # by route
    SPENT = "spent"  # by unit


class StoreSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a store at one moment. A part is None if reading it took too long.

    ``totals`` maps each total to its amounts by label. ``slots_in_use`` is by slot key. Sizes are bytes.
    """

    tasks: Mapping[str, int] | None = None
    backlog: Sequence[RouteBacklog] | None = None
    route_states: Mapping[str, RouteState] | None = None
    slots_in_use: Mapping[str, int] | None = None
    totals: Mapping[Total, Mapping[str, float]] | None = None
    size: int | None = None
    wal_size: int | None = None
    disk_free: int | None = None


class Totals(Protocol):
    """Totals that survive a restart."""

    async def raise_to(self, total: Total, amount: float) -> None:
        """Set a total without a label to *amount*, unless it is higher already."""
        ...

    async def read(self) -> Mapping[Total, Mapping[str, float]]:
        """Return each total's amounts by label."""
        ...

    async def snapshot(self) -> StoreSnapshot:
        """Return the state of the store."""
        ...
