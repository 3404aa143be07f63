"""A fake clock, free ports, and waiting for a condition instead of for time."""

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
    """A clock that moves only when a test advances it. Waits end when their time is reached."""

    def __init__(self, at: datetime = START) -> None:
        self._now = at
        self._sleepers: dict[asyncio.Timeout, datetime] = {}

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Advance the time, and wake all waits that are due."""
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
    """Return a free loopback port.

    It is outside the ephemeral range, so that no outgoing connection can take it before a server starts there.
    """
    while True:
        port = _random.randrange(*_NON_EPHEMERAL_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def plain_http(**arguments: Any) -> AsyncClient:
    """Return an HTTP client without TLS: loading the machine's certificates takes longer than most tests."""
    return AsyncClient(verify=_NO_CERTIFICATES, trust_env=False, **arguments)


def configure_plain_logs() -> None:
    """Log plainly in tests: structlog's default, in colour, is slower than the tests."""
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
    """Wait until *condition* is true, checked every *interval* seconds. Raise TimeoutError after *seconds*."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if isawaitable(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(interval)
