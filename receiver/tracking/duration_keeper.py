"""Keeps the durations of past tasks in the store, so that a restart does not forget when tasks usually end."""

import asyncio
from datetime import timedelta

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.store.interfaces import DurationStore
from receiver.tasks.expected_ends import MAX_KINDS, ExpectedEnds
from receiver.tracking.callback_health import CallbackHealth

log = structlog.get_logger()

SAVE_EVERY = timedelta(minutes=1)
"""How often new durations are stored; a crash forgets those since then."""


class DurationKeeper:
    """Loads the durations at the start, and stores the new ones once a minute and at the stop."""

    def __init__(self, store: DurationStore, ends: ExpectedEnds, health: CallbackHealth, *, clock: Clock) -> None:
        self._store = store
        self._ends = ends
        self._health = health
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the durations until *stop*."""
        self._ends.restore(await self._store.load())
        await self._health.restore()
        while not await self._clock.wait(stop, until=self._clock.now() + SAVE_EVERY):
            await self.save()
        await self.save()

    async def save(self) -> None:
        """Store the durations of the kinds that have new ones. A store without space is tried again later."""
        changed = self._ends.take_changed()
        if not changed:
            return
        try:
            await self._store.save(changed, now=self._clock.now(), keep=MAX_KINDS)
        except StoreUnavailable as exc:
            log.warning("durations.delayed", reason=exc.message)
            self._ends.mark_changed(changed)
