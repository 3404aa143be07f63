"""Measures the event loop, and stores how many callbacks were missed."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from receiver.domain.clock import Clock
from receiver.domain.errors import StoreUnavailable
from receiver.domain.metrics import Metrics
from receiver.store.interfaces import Total, Totals

INTERVAL = timedelta(seconds=1)

log = structlog.get_logger()


class LoopLag:
    """Measures how late the event loop runs, once a second."""

    def __init__(self, metrics: Metrics, *, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Measure until *stop*."""
        while not stop.is_set():
            began = time.perf_counter()
            if not await self._clock.wait(stop, until=self._clock.now() + INTERVAL):
                late = time.perf_counter() - began - INTERVAL.total_seconds()
                self._metrics.loop_lag_seconds.observe(late)


class MissedCallbacks:
    """Stores once a second how many callbacks were missed. *count* returns how many since ``run`` began.

    That count may fall again when a callback arrives late. The stored total never falls, as a counter must not.
    """

    def __init__(self, totals: Totals, *, count: Callable[[], int], clock: Clock) -> None:
        self._totals = totals
        self._count = count
        self._clock = clock
        self._before: float | None = None  # the total when the count began
        self._stored = -1.0

    async def run(self, stop: asyncio.Event) -> None:
        """Continue the stored total, which another node may have raised meanwhile, until *stop*."""
        self._before, self._stored = None, -1.0
        while not stop.is_set():
            await self.store()
            await self._clock.wait(stop, until=self._clock.now() + INTERVAL)
        await self.store()

    async def store(self) -> None:
        """Store the number of missed callbacks if it has grown. A store without space is tried again later."""
        try:
            if self._before is None:
                self._before = (await self._totals.read())[Total.CALLBACKS_MISSED].get("", 0)
            total = self._before + self._count()
            if total > self._stored:
                await self._totals.raise_to(Total.CALLBACKS_MISSED, total)
                self._stored = total
        except StoreUnavailable as exc:
            log.warning("totals.delayed", reason=exc.message)
