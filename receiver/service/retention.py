"""Takes away what has been kept for long enough, an hour apart and in small steps, so that nobody waits for it."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.settings import RetentionSettings
from receiver.store.interfaces import RetentionStore, RetentionTarget

log = structlog.get_logger()

SWEEP_INTERVAL = timedelta(hours=1)

_PAUSE = timedelta(milliseconds=20)
"""A pause after each step, longer than the step, so that the store is free for others most of the time."""


class Retention:
    """Keeps the store from growing for ever."""

    def __init__(self, store: RetentionStore, settings: RetentionSettings, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ages: Mapping[RetentionTarget, timedelta] = {
            litter: settings.bodies if litter in (RetentionTarget.BODIES, RetentionTarget.INTENTS) else settings.events
            for litter in RetentionTarget
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep now and every hour, until *stop*; what a stop interrupts is done at the next start."""
        while not stop.is_set():
            try:
                await self.sweep(stop)
            except StoreUnavailable as exc:  # a full disk, say; nothing is lost by doing it later
                log.warning("retention.delayed", reason=exc.message)
            await self._clock.wait(stop, until=self._clock.now() + SWEEP_INTERVAL)

    async def sweep(self, stop: asyncio.Event) -> Mapping[str, int]:
        """Take away all that is old by now; give how much it was, by kind."""
        now = self._clock.now()
        gone: Counter[str] = Counter()
        for litter, age in self._ages.items():
            gone.update(await self._sweep_target(litter, stop, before=now - age, now=now))
        if any(gone.values()):
            await self._store.truncate_wal()
        log.info("retention.swept", **gone)
        return gone

    async def _sweep_target(
        self, target: RetentionTarget, stop: asyncio.Event, *, before: datetime, now: datetime
    ) -> Counter[str]:
        gone: Counter[str] = Counter()
        after: str | None = ""
        while after is not None and not stop.is_set():
            swept = await self._store.sweep(target, before=before, now=now, after=after)
            gone.update(swept.deleted)
            after = swept.next
            if after is not None:
                await self._clock.wait(stop, until=self._clock.now() + _PAUSE)
        return gone
