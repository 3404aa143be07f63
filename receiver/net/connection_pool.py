"""A pool of keep-alive connections."""

import asyncio
import contextlib
from datetime import timedelta

from receiver.net.http_connection import HttpConnection

MAX_AGE = timedelta(seconds=60)
"""A connection is used no longer than this, so that a name is resolved again even under constant traffic."""

IDLE_SECONDS = 4.0  # below the 5 s after which uvicorn and node close: a request must not meet a closing connection
_CLOSING_SECONDS = 1.0


class ConnectionPool:
    """All open connections, and which are idle. Only ``aclose`` awaits, so that no cancellation can lose one."""

    def __init__(self, *, max_idle: int, max_age: timedelta) -> None:
        self._max_idle = max_idle
        self._max_age = max_age.total_seconds()
        self._open: set[HttpConnection] = set()
        self._idle: dict[str, list[HttpConnection]] = {}
        self._idle_count = 0
        self._sweep_timer: asyncio.TimerHandle | None = None

    def new_connection(self) -> HttpConnection:
        """Make a connection object for the dialer."""
        return HttpConnection(self._open)

    def register(self, connection: HttpConnection) -> None:
        """Track a connection that was just opened, unless it has already closed."""
        if connection.is_open:
            self._open.add(connection)
        connection.retire_at = _now() + self._max_age

    def acquire(self, origin: str) -> HttpConnection | None:
        """Return the most recently used idle connection to *origin* that is still open, or None."""
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if _is_reusable(connection):
                return connection
            connection.abort()
        return None

    def release(self, origin: str, connection: HttpConnection) -> None:
        """Keep the connection if its request completed cleanly and there is capacity; otherwise close it."""
        if not connection.finish() or self._idle_count >= self._max_idle:
            connection.abort()
            return
        connection.reusable_until = min(connection.retire_at, _now() + IDLE_SECONDS)
        self._idle.setdefault(origin, []).append(connection)
        self._idle_count += 1
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_expired)

    def _close_expired(self) -> None:
        """Close connections that were idle too long, or are too old."""
        self._sweep_timer = None
        for origin, connections in list(self._idle.items()):
            kept = [connection for connection in connections if _is_reusable(connection)]
            for connection in set(connections) - set(kept):
                connection.abort()
            self._idle_count -= len(connections) - len(kept)
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        if self._idle:
            self._sweep_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_expired)

    async def aclose(self) -> None:
        """Close all connections and wait up to a second until they are released."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        self._idle.clear()
        self._idle_count = 0
        for connection in tuple(self._open):
            connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                while self._open:  # noqa: ASYNC110  # an event would cost more than this short wait
                    await asyncio.sleep(0)


def _is_reusable(connection: HttpConnection) -> bool:
    """Return whether an idle connection may carry a request: it is open, not too old and not idle for too long."""
    return connection.is_open and _now() < connection.reusable_until


def _now() -> float:
    return asyncio.get_running_loop().time()
