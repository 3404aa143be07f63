"""Wakes the other nodes after a commit here, and the parts of this node after a commit there.

Notifications are hints. The guarantee is a look at the store every second, and twice a second while no notification
arrives: the database permits no LISTEN, or a pooler swallows it. So a free slot waits less than a second for its task.
"""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from receiver.domain.errors import StoreError, StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.store.interfaces.node_calls import SignalStore

log = structlog.get_logger()

LOOK_EVERY = 1.0
"""Seconds between two looks at the store of a node that receives notifications."""
DEAF_LOOK_EVERY = 0.5
"""The same for a node that receives none, not even its own."""

_SEND_INTERVAL = 0.05
_RETRY_DELAY = 1.0


class NodeSignals:
    """Sends and receives notifications. A node alone sends none and needs no extra looks."""

    def __init__(
        self, store: SignalStore, notifiers: Notifiers, instance: str, *, has_others: Callable[[], bool]
    ) -> None:
        self._store = store
        self._notifiers = notifiers.by_name()
        self._instance = instance
        self._has_others = has_others
        self._names: set[str] = set()
        self._wake = asyncio.Event()
        self.is_deaf = True
        for name, notifier in self._notifiers.items():
            notifier.forward = partial(self._forward, name)

    async def run(self, stop: asyncio.Event) -> None:
        """Send, receive and look until *stop*."""
        parts = [asyncio.create_task(part()) for part in (self._send, self._listen, self._look)]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([*parts, stopping], return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for task in (*parts, stopping):
                task.cancel()
            await asyncio.gather(*parts, stopping, return_exceptions=True)

    def _forward(self, name: str) -> None:
        self._names.add(name)
        self._wake.set()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            names, self._names = self._names, set()
            if not names or not self._has_others():
                continue
            try:
                await self._store.notify(f"{self._instance} {' '.join(sorted(names))}")
            except StoreUnavailable as exc:
                log.debug("signal.lost", reason=exc.message)  # the others look by themselves
            await asyncio.sleep(_SEND_INTERVAL)

    async def _listen(self) -> None:
        was_refused = False
        while True:
            try:
                async with self._store.listening(self._receive) as check:
                    log.info("signals.listening")
                    await self._store.notify(self._instance)  # it comes back, unless this node is deaf
                    self._look_now()
                    while True:
                        await asyncio.sleep(LOOK_EVERY)
                        check()
            except StoreUnavailable as exc:
                log.debug("signals.interrupted", reason=exc.message)
            except StoreError as exc:
                if not was_refused:
                    log.warning(
                        "signals.refused", reason=exc.message, remedy="Work is found half a second later at most."
                    )
                was_refused = True
            finally:
                self.is_deaf = True
            await asyncio.sleep(_RETRY_DELAY)

    def _receive(self, payload: str) -> None:
        self.is_deaf = False
        sender, *names = payload.split(" ")
        if sender == self._instance:
            return
        for name in names:
            if (notifier := self._notifiers.get(name)) is not None:  # a newer version may send others
                notifier.notify_here()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(DEAF_LOOK_EVERY if self.is_deaf else LOOK_EVERY)
            if self._has_others():
                self._look_now()

    def _look_now(self) -> None:
        for notifier in self._notifiers.values():
            notifier.notify_here()
