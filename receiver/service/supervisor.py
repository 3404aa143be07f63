"""Runs the parts of the service together, and says how it ended.

Start: work, then listeners, then READY. Stop: listeners first, so that nothing new comes in, then work, which ends or
gives back what is under way. Should any one part end by itself, all end, and the process with 1: a receiver that is
half alive is worse than one that is started anew.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

import structlog

from receiver.domain.notifier import Notifiers
from receiver.service.systemd import SystemdNotifier
from receiver.web.resources.health import Check
from receiver.web.server.listener import Listener

log = structlog.get_logger()

Work = Callable[[asyncio.Event], Coroutine[object, object, None]]
"""A service: runs until the event it is given, ends what it has under way, and returns."""


@dataclass(slots=True)
class _Running:
    """A service under way, and how it is told to stop."""

    stop: asyncio.Event
    task: "asyncio.Task[None]"


class Supervisor:
    """Keeps all parts of the service running, or none."""

    def __init__(self, *, broken: asyncio.Event, work: Mapping[str, Work], notifiers: Notifiers) -> None:
        self._broken = broken
        self._listeners: Mapping[str, Listener] = {}
        self._work = work
        self._notifiers = notifiers
        self._running: dict[str, _Running] = {}

    def set_listeners(self, **listeners: Listener) -> None:
        """Say which listeners the service is to have."""
        self._listeners = listeners

    async def readiness(self) -> Sequence[Check]:
        """Tell whether every part does its work."""
        store = "" if not self._broken.is_set() else "It broke; see the log, and run: kling-receiver db check"
        parts = {name: running.task.done() for name, running in self._running.items() if name in self._work}
        return [
            Check(name="store", ok=not store, reason=store),
            *(Check(name=name, ok=each.started.is_set()) for name, each in self._listeners.items()),
            *(Check(name=name, ok=not ended, reason="It has ended." if ended else "") for name, ended in parts.items()),
        ]

    async def run(self, systemd: SystemdNotifier) -> int:
        """Run until SIGTERM or SIGINT (0), or until a part fails (1)."""
        asked_to_stop = stop_signals()
        for name, work in self._work.items():
            self._start(name, work)
        for name, listener in self._listeners.items():
            self._start(name, listener.serve)
        ends = [asyncio.create_task(asked_to_stop.wait()), asyncio.create_task(self._broken.wait())]
        try:
            ready = asyncio.create_task(self._report_ready(systemd))
            self._running["readiness"] = _Running(stop=asyncio.Event(), task=ready)
            await asyncio.wait(
                [*ends, *(running.task for running in self._running.values())], return_when=asyncio.FIRST_COMPLETED
            )
            systemd.stopping()
            failed = self._failed_part()
            if self._broken.is_set():
                log.critical("store.broken", remedy="Run: kling-receiver db check")
                return 1
            log.info("service.stopping", reason="a signal" if not failed else f"{failed} ended")
            await self._stop()
            return 1 if failed or self._failed_part() else 0
        finally:
            await self._cancel_all(ends)

    async def _report_ready(self, systemd: SystemdNotifier) -> None:
        for listener in self._listeners.values():
            await listener.started.wait()
        log.info(
            "service.ready",
            addresses={name: [str(a) for a in each.addresses] for name, each in self._listeners.items()},
        )
        systemd.ready()
        while True:
            if systemd.watchdog_interval is None:
                await asyncio.Event().wait()
            else:
                systemd.watchdog()
                await asyncio.sleep(systemd.watchdog_interval.total_seconds())

    def _start(self, name: str, work: Work) -> None:
        stop = asyncio.Event()
        self._running[name] = _Running(stop=stop, task=asyncio.create_task(work(stop), name=name))

    def _failed_part(self) -> str:
        """Name a part that ended though nobody told it to, and say in the log what it died of."""
        for name, running in self._running.items():
            if running.task.done() and not running.task.cancelled() and not running.stop.is_set():
                log.critical("service.failed", part=name, exc_info=running.task.exception())
                return name
        return ""

    async def _stop(self) -> None:
        """Stop the listeners, and then the work they feed."""
        for names in (self._listeners, self._work):
            stopping = [self._running[name] for name in names]
            for running in stopping:
                running.stop.set()
            self._notifiers.notify_all()
            await asyncio.gather(*(running.task for running in stopping), return_exceptions=True)

    async def _cancel_all(self, ends: "Sequence[asyncio.Task[bool]]") -> None:
        left = [*ends, *(running.task for running in self._running.values())]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def stop_signals() -> asyncio.Event:
    """Turn SIGTERM and SIGINT into an event."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    return asked
