"""Deletes old data every hour, in small steps, so that other writes do not wait."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.settings import RetentionSettings, Settings
from receiver.store.interfaces import RetentionStore, RetentionTarget

log = structlog.get_logger()

SWEEP_INTERVAL = timedelta(hours=1)

_PAUSE = timedelta(milliseconds=20)
"""The pause after each step, longer than the step, so that the store is available for other writes."""


class PreviewSweeper(Protocol):
    """Removes old thumbnails."""

    async def sweep(self, *, before: datetime) -> int:
        """Remove the thumbnails of tasks whose last one was made before a time. Return the number of tasks."""
        ...


class Retention:
    """Deletes old data, so that the store does not grow without limit."""

    def __init__(
        self,
        store: RetentionStore,
        settings: RetentionSettings,
        *,
        clock: Clock,
        previews: PreviewSweeper | None = None,
    ) -> None:
        self._store = store
        self._previews = previews
        self._settings = settings
        self._clock = clock

    def apply(self, settings: Settings) -> None:
        """Use *settings* from the next sweep on."""
        self._settings = settings.retention

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep now and every hour until *stop*. The next start continues an interrupted sweep."""
        while not stop.is_set():
            try:
                await self.sweep(stop)
            except StoreUnavailable as exc:  # a full disk, for example; the next sweep catches up
                log.warning("retention.delayed", reason=exc.message)
            await self._clock.wait(stop, until=self._clock.now() + SWEEP_INTERVAL)

    async def sweep(self, stop: asyncio.Event) -> Mapping[str, int]:
        """Delete everything that is old now; return the number of deleted rows by kind."""
        now = self._clock.now()
        deleted: Counter[str] = Counter()
        for target, age in _ages(self._settings).items():
            deleted.update(await self._sweep_target(target, stop, before=now - age, now=now))
        if any(deleted.values()):
            await self._store.truncate_wal()
        log.info("retention.swept", **deleted)
        return deleted

    async def run_previews(self, stop: asyncio.Event) -> None:
        """Remove old thumbnails now and every hour until *stop*. Every node may have some of its own."""
        while not stop.is_set():
            await self.sweep_previews()
            await self._clock.wait(stop, until=self._clock.now() + SWEEP_INTERVAL)

    async def sweep_previews(self) -> int:
        """Remove the old thumbnails on this machine; return of how many tasks."""
        if self._previews is None:
            return 0
        removed = await self._previews.sweep(before=self._clock.now() - self._settings.events)
        if removed:
            log.info("previews.swept", tasks=removed)
        return removed

    async def _sweep_target(
        self, target: RetentionTarget, stop: asyncio.Event, *, before: datetime, now: datetime
    ) -> Counter[str]:
        deleted: Counter[str] = Counter()
        after: str | None = ""
        while after is not None and not stop.is_set():
            swept = await self._store.sweep(target, before=before, now=now, after=after)
            deleted.update(swept.deleted)
            after = swept.next
            if after is not None:
                await self._clock.wait(stop, until=self._clock.now() + _PAUSE)
        return deleted


def _ages(settings: RetentionSettings) -> Mapping[RetentionTarget, timedelta]:
    """Return how long each kind of data is kept."""
    bodies = (RetentionTarget.BODIES, RetentionTarget.INTENTS)
    return {target: settings.bodies if target in bodies else settings.events for target in RetentionTarget}
