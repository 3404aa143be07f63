"""Tells those who wait when it is worth asking the service again: one stream of events for all of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol, TypeAlias

from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json

RECONNECT_SECONDS = 1.0

_CONNECTED_POLL_SECONDS = 15.0  # with the stream there
_DISCONNECTED_POLL_SECONDS = 2.0  # without it
_COMMIT_LAG_SECONDS = 1.0  # by then all is committed whose event is older than the stream


class SseEvent(Protocol):
    """An event in the stream."""

    @property
    def data(self) -> str:
        """The event's object."""
        ...


Stream: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[SseEvent]]]
"""Opens the stream of events; entered once it has begun."""
Filter: TypeAlias = Callable[[Json], bool]
"""Whether an event, as its object, is of interest."""


class EventSignals:
    """The bells of one client. They listen, across reconnects, for as long as there is anybody to ring for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._signals: list[EventSignal] = []
        self._reader: asyncio.Task[None] | None = None
        self._is_connected = False

    @asynccontextmanager
    async def signal(self, matches: Filter) -> "AsyncIterator[EventSignal]":
        """Give a bell that rings for such events."""
        bell = EventSignal(self, matches)
        self._signals.append(bell)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_stream())
        elif self._is_connected:
            bell.event.set()  # for what happened before it was there
        try:
            yield bell
        finally:
            self._signals.remove(bell)
            if not self._signals:
                listening, self._reader = self._reader, None
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    @property
    def poll_interval(self) -> float:
        """For how many seconds nobody needs to ask who has heard nothing: a ring may have been missed."""
        return _CONNECTED_POLL_SECONDS if self._is_connected else _DISCONNECTED_POLL_SECONDS

    async def _read_stream(self) -> None:
        while True:
            try:
                with suppress(ReceiverError):  # asking by the clock goes on meanwhile
                    async with self._stream() as events:
                        self._is_connected = True
                        self._notify_all()  # for what happened before we listened
                        asyncio.get_running_loop().call_later(_COMMIT_LAG_SECONDS, self._notify_all)
                        async for event in events:
                            self._notify(json.loads(event.data))
            finally:
                self._is_connected = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _notify(self, event: Json) -> None:
        for bell in self._signals:
            if bell.matches(event):
                bell.event.set()

    def _notify_all(self) -> None:
        for bell in self._signals:
            bell.event.set()


class EventSignal:
    """Rings for one who waits."""

    def __init__(self, signals: EventSignals, matches: Filter) -> None:
        self.matches = matches
        self.event = asyncio.Event()
        self._signals = signals

    async def wait(self, at_most: float | None = None) -> None:
        """Wait until it is worth asking again, at the longest *at_most* seconds."""
        patience = self._signals.poll_interval
        with suppress(TimeoutError):
            async with asyncio.timeout(patience if at_most is None else max(0.0, min(patience, at_most))):
                await self.event.wait()
        self.event.clear()
