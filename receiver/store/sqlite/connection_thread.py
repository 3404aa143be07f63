"""A connection of a SQLite file and the thread that uses it."""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import aiosqlite

P = ParamSpec("P")
R = TypeVar("R")

_ITER_CHUNK_SIZE = 64


class ConnectionThread(aiosqlite.Connection):
    """A connection and its thread, which runs functions in order. While it is idle, the event loop may do so.

    aiosqlite's own methods switch threads for each statement. Under load the switches cost more than the
    statements, so one call runs a whole function in the thread. Short work costs even less on the event loop: two
    threads that run Python at once wait for its lock at each statement.
    """

    _called = 0  # functions passed to the thread
    _ended = 0  # functions that have ended there

    @classmethod
    async def open(cls, connect: Callable[[], sqlite3.Connection], *, name: str) -> "ConnectionThread":
        """Start the thread, which opens the connection."""
        thread = cls(connect, _ITER_CHUNK_SIZE)
        thread._thread.name = name
        try:
            await thread
        except BaseException:
            # The thread ends by itself and then calls into the event loop, so the loop must still run.
            await asyncio.to_thread(thread._thread.join)
            raise
        return thread

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call *function* with the connection in its thread. Cancelling the caller does not stop the function."""
        self._called += 1
        done: R = await self._execute(partial(self._count_end, function), *args, **kwargs)  # type: ignore[no-untyped-call]  # aiosqlite leaves it untyped
        return done

    def _count_end(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        try:
            return function(self._conn, *args, **kwargs)
        finally:
            self._ended += 1

    @property
    def is_idle(self) -> bool:
        """Whether the thread has nothing to do. A function whose caller was cancelled may still run in it."""
        return self._called == self._ended

    def run_here(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call *function* with the connection on the event loop. The thread must be idle, and the work short."""
        return function(self._conn, *args, **kwargs)

    async def aclose(self) -> None:
        """Finish pending calls, close the connection and end the thread."""
        await self.close()
