"""Deletion of old data."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec


class RetentionTarget(StrEnum):
    """The kinds of data that are deleted with age, in the order of deletion."""

    BODIES = "bodies"  # of pushes: their rows, digests and outcomes stay
    INTENTS = "intents"  # the bodies of submits
    EVENTS = "events"  # with deliveries, attempts and assets
    TASKS = "tasks"  # finished and without events, with their pushes
    BATCHES = "batches"  # without tasks
    ACTIONS = "actions"  # and the costs of deleted tasks
    REPLAYS = "replays"
    ALERTS = "alerts"  # closed
    SESSIONS = "sessions"  # of the console, and its links, that have expired: their age is not configured


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The number of rows one step deleted, by kind. The next step starts after ``next``; None: nothing old is left."""

    deleted: Mapping[str, int]
    next: str | None


class RetentionStore(Protocol):
    """Deletes old data in small steps."""

    async def sweep(self, target: RetentionTarget, *, before: datetime, now: datetime, after: str = "") -> SweepResult:
        """Delete one page of data older than *before*, except pending data and data of unfinished tasks."""
        ...

    async def truncate_wal(self) -> None:
        """Checkpoint the database file and truncate its write-ahead log, without blocking readers or writers."""
        ...
