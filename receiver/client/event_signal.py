"""Tells those who wait when it is worth asking the service again: one stream of events for all of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol, TypeAlias

from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json

RECONNECT_SECONDS = 1.0

_ASK_ANYWAY_SECONDS = 15.0  # with the stream there
_ASK_SECONDS = 2.0  # without it
_SETTLED_SECONDS = 1.0  # by then all is committed whose event is older than the stream


class Frame(Protocol):
    """An event in the stream."""

    @property
    def data(self) -> str:
        """The event's object."""
        ...


Stream: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[Frame]]]
"""Opens the stream of events; entered once it has begun."""
Concerns: TypeAlias = Callable[[Json], bool]
"""Whether an event, as its object, is of interest."""


class Bells:
    """The bells of one client. They listen, across reconnects, for as long as there is anybody to ring for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._bells: list[Bell] = []
        self._listening: asyncio.Task[None] | None = None
        self._is_connected = False

    @asynccontextmanager
    async def bell(self, concerns: Concerns) -> "AsyncIterator[Bell]":
        """Give a bell that rings for such events."""
        bell = Bell(self, concerns)
        self._bells.append(bell)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        elif self._is_connected:
            bell.rung.set()  # for what happened before it was there
        try:
            yield bell
        finally:
            self._bells.remove(bell)
            if not self._bells:
                listening, self._listening = self._listening, None
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    @property
    def patience(self) -> float:
        """For how many seconds nobody needs to ask who has heard nothing: a ring may have been missed."""
        return _ASK_ANYWAY_SECONDS if self._is_connected else _ASK_SECONDS

    async def _listen(self) -> None:
        while True:
            try:
                with suppress(ReceiverError):  # asking by the clock goes on meanwhile
                    async with self._stream() as events:
                        self._is_connected = True
                        self._ring_all()  # for what happened before we listened
                        asyncio.get_running_loop().call_later(_SETTLED_SECONDS, self._ring_all)
                        async for event in events:
                            self._ring(json.loads(event.data))
            finally:
                self._is_connected = False
            await asyncio.sleep(RECONNECT_SECONDS)

    def _ring(self, event: Json) -> None:
        for bell in self._bells:
            if bell.concerns(event):
                bell.rung.set()

    def _ring_all(self) -> None:
        for bell in self._bells:
            bell.rung.set()


class Bell:
    """Rings for one who waits."""

    def __init__(self, bells: Bells, concerns: Concerns) -> None:
        self.concerns = concerns
        self.rung = asyncio.Event()
        self._bells = bells

    async def wait(self, at_most: float | None = None) -> None:
        """Wait until it is worth asking again, at the longest *at_most* seconds."""
        patience = self._bells.patience
        with suppress(TimeoutError):
            async with asyncio.timeout(patience if at_most is None else max(0.0, min(patience, at_most))):
                await self.rung.wait()
        self.rung.clear()
