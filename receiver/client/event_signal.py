"""Wakes waiting calls when the service may have news. All calls of a client share one event stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol, TypeAlias

from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json

RECONNECT_SECONDS = 1.0

_CONNECTED_POLL_SECONDS = 15.0  # while the stream is connected
_DISCONNECTED_POLL_SECONDS = 2.0  # while it is not
_COMMIT_LAG_SECONDS = 1.0  # by then every event from before the stream's start is committed


class SseEvent(Protocol):
    """An event in the stream."""

    @property
    def data(self) -> str:
        """The event as JSON."""
        ...


Stream: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[SseEvent]]]
"""Opens the event stream; the context is entered once the stream is connected."""
Filter: TypeAlias = Callable[[Json], bool]
"""Returns whether an event, as its JSON object, is relevant."""


class EventSignals:
    """The signals of one client. The event stream is read, with reconnects, while at least one signal exists."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._signals: list[EventSignal] = []
        self._reader: asyncio.Task[None] | None = None
        self._is_connected = False

    @asynccontextmanager
    async def signal(self, matches: Filter) -> "AsyncIterator[EventSignal]":
        """Yield a signal that is set for each matching event."""
        signal = EventSignal(self, matches)
        self._signals.append(signal)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_stream())
        elif self._is_connected:
            signal.event.set()  # for events before it existed
        try:
            yield signal
        finally:
            self._signals.remove(signal)
            if not self._signals:
                reader, self._reader = self._reader, None
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    @property
    def poll_interval(self) -> float:
        """Seconds between polls without a signal, since an event may be missed."""
        return _CONNECTED_POLL_SECONDS if self._is_connected else _DISCONNECTED_POLL_SECONDS

    async def _read_stream(self) -> None:
        while True:
            try:
                with suppress(ReceiverError):  # waiting calls poll meanwhile
                    async with self._stream() as events:
                        self._is_connected = True
                        self._notify_all()  # for events before the connection
                        asyncio.get_running_loop().call_later(_COMMIT_LAG_SECONDS, self._notify_all)
                        async for event in events:
                            self._notify(json.loads(event.data))
            finally:
                self._is_connected = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _notify(self, event: Json) -> None:
        for signal in self._signals:
            if signal.matches(event):
                signal.event.set()

    def _notify_all(self) -> None:
        for signal in self._signals:
            signal.event.set()


class EventSignal:
    """Wakes one waiting call when an event matches."""

    def __init__(self, signals: EventSignals, matches: Filter) -> None:
        self.matches = matches
        self.event = asyncio.Event()
        self._signals = signals

    async def wait(self, at_most: float | None = None) -> None:
        """Wait for a matching event or the next poll, at most *at_most* seconds."""
        interval = self._signals.poll_interval
        with suppress(TimeoutError):
            async with asyncio.timeout(interval if at_most is None else max(0.0, min(interval, at_most))):
                await self.event.wait()
        self.event.clear()
