"""Runs the parts of the service together, and returns the exit code.

Start: work, then listeners, then READY. Stop: listeners first, so that no new requests arrive. Then the work stops,
which finishes or releases everything in flight. If one part ends by itself, all parts stop and the exit code is 1:
a service that runs only in part is worse than a restarted one.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence

import msgspec
import structlog

from receiver.domain.api_schema.resources import Check
from receiver.domain.notifier import Notifiers
from receiver.service.systemd import SystemdNotifier
from receiver.web.server.listener import Listener

log = structlog.get_logger()

Work = Callable[[asyncio.Event], Coroutine[object, object, None]]
"""A part of the service: runs until the event is set, finishes its work in flight, and returns."""


class _Running(msgspec.Struct):
    """A running part, and the event that stops it."""

    stop: asyncio.Event
    task: "asyncio.Task[None]"


class Supervisor:
    """Runs all parts of the service, or none."""

    def __init__(self, *, broken: asyncio.Event, work: Mapping[str, Work], notifiers: Notifiers) -> None:
        self._broken = broken
        self._listeners: Mapping[str, Listener] = {}
        self._work = dict(work)
        self._notifiers = notifiers
        self._running: dict[str, _Running] = {}

    def set_listeners(self, **listeners: Listener) -> None:
        """Set the listeners; call this before run()."""
        self._listeners = listeners

    def add_work(self, work: Mapping[str, Work]) -> None:
        """Add parts that need the readiness of the others; call this before run()."""
        self._work |= work

    async def readiness(self) -> Sequence[Check]:
        """Return a check for the store, each listener and each part."""
        store = (
            "" if not self._broken.is_set() else "The store is broken. See the log, and run `kling-receiver db check`."
        )
        parts = {name: running.task.done() for name, running in self._running.items() if name in self._work}
        return [
            Check(name="store", ok=not store, reason=store),
            *(Check(name=name, ok=each.started.is_set()) for name, each in self._listeners.items()),
            *(
                Check(name=name, ok=not ended, reason="This part has ended." if ended else "")
                for name, ended in parts.items()
            ),
        ]

    async def run(self, systemd: SystemdNotifier) -> int:
        """Run until SIGTERM or SIGINT (0), or until a part fails (1)."""
        stop_requested = stop_signals()
        for name, work in self._work.items():
            self._start(name, work)
        for name, listener in self._listeners.items():
            self._start(name, listener.serve)
        ends = [asyncio.create_task(stop_requested.wait()), asyncio.create_task(self._broken.wait())]
        try:
            ready = asyncio.create_task(self._report_ready(systemd))
            self._running["readiness"] = _Running(stop=asyncio.Event(), task=ready)
            await asyncio.wait(
                [*ends, *(running.task for running in self._running.values())], return_when=asyncio.FIRST_COMPLETED
            )
            systemd.stopping()
            failed = self._failed_part()
            if self._broken.is_set():
                log.critical("store.broken", remedy="Run `kling-receiver db check`.")
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
        """Return the name of a part that ended without a stop, after logging its exception, or an empty string."""
        for name, running in self._running.items():
            if running.task.done() and not running.task.cancelled() and not running.stop.is_set():
                log.critical("service.failed", part=name, exc_info=running.task.exception())
                return name
        return ""

    async def _stop(self) -> None:
        """Stop the listeners, then the work."""
        for names in (self._listeners, self._work):
            stopping = [self._running[name] for name in names]
            for running in stopping:
                running.stop.set()
            self._notifiers.notify_all()
            await asyncio.gather(*(running.task for running in stopping), return_exceptions=True)

    async def _cancel_all(self, ends: "Sequence[asyncio.Task[bool]]") -> None:
        tasks = [*ends, *(running.task for running in self._running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stop_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, requested.set)
    return requested
