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


class Measurements:
    """Runs once a second. *missed_callbacks* counts those of this process; it is None if they are not counted.

    That count may fall again when a callback arrives late. The stored total never falls, as a counter must not.
    """

    def __init__(
        self, metrics: Metrics, totals: Totals, *, missed_callbacks: Callable[[], int] | None, clock: Clock
    ) -> None:
        self._metrics = metrics
        self._totals = totals
        self._missed_callbacks = missed_callbacks
        self._clock = clock
        self._before: float | None = None  # the total when this process started
        self._stored = -1.0

    async def run(self, stop: asyncio.Event) -> None:
        """Measure and store until *stop*."""
        while not stop.is_set():
            await self.store_missed()
            began = time.perf_counter()
            if not await self._clock.wait(stop, until=self._clock.now() + INTERVAL):
                late = time.perf_counter() - began - INTERVAL.total_seconds()
                self._metrics.loop_lag_seconds.observe(late)
        await self.store_missed()

    async def store_missed(self) -> None:
        """Store the number of missed callbacks if it has grown. A store without space is tried again later."""
        if self._missed_callbacks is None:
            return
        try:
            if self._before is None:
                self._before = (await self._totals.read())[Total.CALLBACKS_MISSED].get("", 0)
            total = self._before + self._missed_callbacks()
            if total > self._stored:
                await self._totals.raise_to(Total.CALLBACKS_MISSED, total)
                self._stored = total
        except StoreUnavailable as exc:
            log.warning("totals.delayed", reason=exc.message)
