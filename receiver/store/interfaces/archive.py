"""Events whose results the archiver downloads."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from receiver.domain.model import ArchiveState, Asset, Event
from receiver.events.factory import RoutedEvent


class ArchiveUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Newly archived files of an event, and the state of the rest: all of it is written or nothing.

    ``envelope`` is the event's, with all its files. ``archiving`` is None if no more files follow; otherwise the
    event is due again at ``archive_at``. ``deliver_at`` makes deliveries due that waited for the files.
    """

    event_id: str
    envelope: bytes
    assets: Sequence[Asset] = ()
    archiving: ArchiveState | None = None
    archive_at: datetime | None = None
    deliver_at: datetime | None = None
    alerts: Sequence[RoutedEvent] = ()


class ArchiveStore(Protocol):
    """Events with results still to archive."""

    async def due_events(self, *, now: datetime, exclude: Sequence[str], limit: int) -> Sequence[Event]:
        """Return up to *limit* events due for archiving *now*, longest due first, except those in *exclude*.

        Nothing is claimed. The archiver excludes the events in progress; after a crash they are still due.
        """
        ...

    async def next_due(self, *, exclude: Sequence[str]) -> datetime | None:
        """Return when the next event is due for archiving, except those in *exclude*."""
        ...

    async def make_all_due(self, *, now: datetime) -> int:
        """Make every event due for archiving *now* that would be due later; return the count."""
        ...

    async def save(self, update: ArchiveUpdate) -> bool:
        """Write the update. Return False and write nothing if archiving of the event has ended."""
        ...

    async def abandon_all(self, *, now: datetime) -> int:
        """Stop archiving all events: deliveries that waited for files are due *now*. Return the count of events."""
        ...
