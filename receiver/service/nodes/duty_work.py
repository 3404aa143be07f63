"""The background work of one duty on this node: started when the node takes the duty, stopped when it loses it."""

import asyncio
from collections.abc import Mapping

import structlog

from receiver.domain.clock import Clock
from receiver.domain.duties import Duty, Tenure
from receiver.domain.errors import StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.domain.worker import STORE_RETRY_DELAY
from receiver.service.supervisor import Work

log = structlog.get_logger()


class DutyWork:
    """Runs the parts of a duty. Each start is for them like the start of a process: they read all from the store."""

    def __init__(
        self, duty: Duty, parts: Mapping[str, Work], tenure: Tenure, *, notifiers: Notifiers, clock: Clock
    ) -> None:
        self.duty = duty
        self.tenure = tenure
        self._parts = parts
        self._notifiers = notifiers
        self._clock = clock
        self._stop = asyncio.Event()
        self._is_aborted = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_running(self) -> bool:
        """Whether parts run, or have not ended yet after a loss."""
        return any(not task.done() for task in self._tasks)

    @property
    def is_aborted(self) -> bool:
        """Whether the parts were cancelled."""
        return self._is_aborted

    def start(self) -> None:
        """Start the parts."""
        self._stop, self._is_aborted = asyncio.Event(), False
        self._tasks = [
            asyncio.create_task(available(self._clock, name, work)(self._stop), name=name)
            for name, work in self._parts.items()
        ]

    def failure(self) -> BaseException | None:
        """Return the exception of a part that has failed by itself, or None."""
        if self._is_aborted:
            return None
        ended = (task for task in self._tasks if task.done() and not task.cancelled())
        return next((exc for task in ended if (exc := task.exception()) is not None), None)

    async def stop(self) -> None:
        """Stop the parts; they finish what is in flight. The tenure goes on until they have ended."""
        self._stop.set()
        self._notifiers.notify_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self) -> None:
        """End the tenure and cancel the parts: another node may do their work from now on."""
        self.tenure.end()
        self._stop.set()
        if self._is_aborted:
            return  # a second cancellation would interrupt how they end
        self._is_aborted = True
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until the parts have ended after a loss."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def available(clock: Clock, name: str, work: Work) -> Work:
    """Return *work* that starts again when the database was unavailable at a moment at which it cannot wait for it."""

    async def run(stop: asyncio.Event) -> None:
        while True:
            try:
                await work(stop)
            except StoreUnavailable as exc:
                log.warning("part.delayed", part=name, reason=exc.message)
                if await clock.wait(stop, until=clock.now() + STORE_RETRY_DELAY):
                    return
            else:
                return

    return run
