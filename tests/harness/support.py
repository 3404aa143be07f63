"""What tests share: a clock they move by hand, free ports, waiting for a fact instead of for time."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from random import SystemRandom
from typing import Any

import structlog
from httpx2 import AsyncClient

_NON_EPHEMERAL_PORTS = 10_000, 32_000
_random = SystemRandom()

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is told to move; those who wait on it wake as it passes their moment."""

    def __init__(self, at: datetime = START) -> None:
        self._now = at
        self._sleepers: dict[asyncio.Timeout, datetime] = {}

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move the time on and wake whoever waited for a moment that has now come."""
        self._now += by
        for sleeper in [sleeper for sleeper, until in self._sleepers.items() if until <= self._now]:
            del self._sleepers[sleeper]
            sleeper.reschedule(0)

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        if until is None:
            return await event.wait()
        if event.is_set() or until <= self._now:
            return event.is_set()
        sleeper = asyncio.timeout(None)
        try:
            async with sleeper:
                self._sleepers[sleeper] = until
                return await event.wait()
        except TimeoutError:
            return event.is_set()
        finally:
            self._sleepers.pop(sleeper, None)


def free_port() -> int:
    """Find a port of loopback that nobody listens on.

    It is none of those that the system lends to connections: what is started anew there would find it taken.
    """
    while True:
        port = _random.randrange(*_NON_EPHEMERAL_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def plain_http(**arguments: Any) -> AsyncClient:
    """A client of what runs here, without TLS: to read the machine's certificates takes longer than most tests."""
    return AsyncClient(verify=_NO_CERTIFICATES, trust_env=False, **arguments)


def configure_plain_logs() -> None:
    """Have what is logged in a test printed plainly: structlog's own way, in colours, takes longer than the tests."""
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ]
    )


_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 10.0, interval: float = 0.005
) -> None:
    """Wait until *fact* holds, looking *every* so many seconds; fail when it does not within so many."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if isawaitable(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(interval)
