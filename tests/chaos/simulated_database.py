"""A real PostgreSQL database in virtual time: time stands still while an answer of the server is awaited.

The server's clock is the simulation's: it reads the time from a file. Each connection belongs to a simulated process,
which can be stopped in the middle of a transaction, cut off, or killed.
"""

import asyncio
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from chaos.virtual_time import INCARNATION, VirtualLoop
from harness.clock import START
from harness.postgres_rows import fetch_rows

_READY, _IDLE, _TERMINATE, _PARSE = b"Z", b"I", b"X", b"P"
_DESCRIBED = (b"T", b"n", b"E")
"""The last message of the answer to a statement that is only prepared: its columns, that it has none, or an error."""

_HEAD_SIZE = 5
_MIN_GAP_SECONDS = 1e-6
_LATENCY_SECONDS = 0.002
_PATIENCE_SECONDS = {False: 0.2, True: 0.005}
_STEP_SECONDS = 0.25
"""A server that does not answer for so long waits for another process: let at most this much virtual time pass.

It is likely if a process (True) does nothing within a transaction, because it is frozen or its answer is on the way.
"""

_CLOCK_FUNCTION = """
CREATE OR REPLACE FUNCTION micros_now() RETURNS BIGINT LANGUAGE sql VOLATILE RETURN pg_read_file('{file}')::BIGINT
"""


class DatabaseLoop(VirtualLoop):
    """A virtual loop with connections to a database, whose processes can be frozen, cut off and killed."""

    def __init__(self, clock_file: Path, rng: Random) -> None:
        self.frozen: set[int] = set()
        self.cut_off: set[int] = set()
        self.killed: set[int] = set()
        self.links: set[DatabaseLink] = set()
        self.awaiting: set[DatabaseLink] = set()  # few of the links: it is looked at in every turn
        self.rng = rng
        self.on_traffic: Callable[[int], None] = lambda _owner: None
        self._parked: dict[int, list[asyncio.Handle]] = {}
        self._clock_file = os.open(clock_file, os.O_RDWR | os.O_CREAT, 0o644)
        super().__init__(_DatabaseSelector(self))
        self._ready = _ReadyQueue(self)
        self._write_clock()

    def close(self) -> None:
        """Close the loop and the clock."""
        super().close()
        with suppress(OSError):
            os.close(self._clock_file)

    def pass_time(self, seconds: float | None) -> None:
        """Advance to the next timer, here and for the database."""
        before = self.microseconds
        self.advance(seconds)
        if self.microseconds != before:
            self._write_clock()

    def _write_clock(self) -> None:
        micros = int(START.timestamp() * 1e6) + self.microseconds
        os.pwrite(self._clock_file, b"%020d" % micros, 0)

    @property
    def awaits_answer(self) -> bool:
        """Whether the database has a statement of a process that runs."""
        return any(link.owner not in self.frozen for link in self.awaiting)

    @property
    def is_blocked(self) -> bool:
        """Whether a process may hold locks while it does nothing."""
        return any(link.is_pausing for link in self.links)

    def is_parked(self, handle: asyncio.Handle) -> bool:
        """Keep the work of a frozen process for later. Return whether it was."""
        owner = handle._context.get(INCARNATION, 0)  # type: ignore[attr-defined]  # private member of asyncio
        if owner not in self.frozen:
            return False
        self._parked.setdefault(owner, []).append(handle)
        return True

    def is_asleep(self, key: selectors.SelectorKey) -> bool:
        """Return whether a socket belongs to a frozen process, which leaves its bytes in the kernel."""
        handles = [handle for handle in key.data or () if handle is not None]
        return any(handle._context.get(INCARNATION, 0) in self.frozen for handle in handles)

    def freeze(self, owner: int) -> None:
        """Stop a process like SIGSTOP, also between two statements."""
        self.frozen.add(owner)

    def thaw(self, owner: int) -> None:
        """Continue a process like SIGCONT."""
        self.frozen.discard(owner)
        self._ready.extend(self._parked.pop(owner, ()))

    def cut(self, owner: int) -> None:
        """Cut all connections of a process."""
        for link in list(self.links):
            if link.owner == owner:
                link.abort()

    def end_sessions(self, owner: int) -> None:
        """End the sessions of a process that are in a transaction, as the database does after a while."""
        for link in list(self.links):
            if link.owner == owner and link.is_in_transaction:
                link.abort()

    def kill(self, owner: int) -> None:
        """Cut all connections of a process for good."""
        self.killed.add(owner)
        self.cut(owner)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to the database by its socket, and to everything else through the simulated network."""
        if sock.family == socket.AF_UNIX:
            await asyncio.SelectorEventLoop.sock_connect(self, sock, address)
        else:
            await super().sock_connect(sock, address)

    async def create_unix_connection(  # type: ignore[override]  # as the driver calls it
        self, protocol_factory: Callable[[], asyncio.Protocol], path: str, **known: Any
    ) -> tuple[Any, asyncio.Protocol]:
        """Connect the current process to the database."""
        owner = INCARNATION.get()
        if owner in self.killed:
            raise asyncio.CancelledError
        if owner in self.cut_off:
            raise ConnectionRefusedError
        link = DatabaseLink(self, protocol_factory(), owner)
        await super().create_unix_connection(lambda: link, path, **known)
        return link, link.protocol


class DatabaseLink(asyncio.Protocol):
    """One connection to the database. Answers come a little late. It is the transport of the driver's protocol."""

    def __init__(self, loop: DatabaseLoop, protocol: asyncio.Protocol, owner: int) -> None:
        self.protocol = protocol
        self.owner = owner
        self.is_in_transaction = False
        self._loop = loop
        self._transport: Any = None
        self._prepares = False
        self._unread = b""
        self._last = 0.0
        self._is_lost = False

    @property
    def is_pausing(self) -> bool:
        """Whether a transaction is open and the database does not work for it."""
        return self.is_in_transaction and (self not in self._loop.awaiting or self.owner in self._loop.frozen)

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._loop.links.add(self)
        self.protocol.connection_made(self)  # type: ignore[arg-type]  # it has what a transport has

    def data_received(self, data: bytes) -> None:
        self._read_messages(data)
        latency = self._loop.rng.expovariate(1 / _LATENCY_SECONDS)
        self._last = max(self._last + _MIN_GAP_SECONDS, self._loop.time() + latency)
        self._loop.call_at(self._last, self._deliver, data)

    def _read_messages(self, data: bytes) -> None:
        """Notice the end of an answer: the message that the server is ready, and whether a transaction is open."""
        unread = self._unread + data
        while len(unread) >= _HEAD_SIZE:
            end = 1 + int.from_bytes(unread[1:_HEAD_SIZE])
            if len(unread) < end:
                break
            kind = unread[:1]
            if kind == _READY:
                self.is_in_transaction = unread[end - 1 : end] != _IDLE
            if kind == _READY or (self._prepares and kind in _DESCRIBED):
                self._loop.awaiting.discard(self)
            unread = unread[end:]
        self._unread = unread

    def connection_lost(self, error: Exception | None) -> None:
        self._loop.links.discard(self)
        self._loop.awaiting.discard(self)
        if not self._is_lost:
            self._is_lost = True
            self.protocol.connection_lost(error)

    def _deliver(self, data: bytes) -> None:
        if not self._is_lost:
            self.protocol.data_received(data)

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    # Called by the driver.

    def write(self, data: bytes) -> None:
        kind = bytes(data[:1])
        self._prepares = kind == _PARSE
        if kind == _TERMINATE:
            self._loop.awaiting.discard(self)
        elif not self._is_lost:
            self._loop.awaiting.add(self)
        self._transport.write(data)
        self._loop.on_traffic(self.owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _ReadyQueue(deque[asyncio.Handle]):
    """The work that is ready, without that of frozen processes."""

    def __init__(self, loop: DatabaseLoop) -> None:
        super().__init__()
        self._loop = loop
        self._nothing = asyncio.Handle(lambda: None, (), loop)
        self._nothing.cancel()

    def popleft(self) -> asyncio.Handle:
        handle = super().popleft()
        return self._nothing if self._loop.frozen and self._loop.is_parked(handle) else handle


class _DatabaseSelector(selectors.DefaultSelector):
    """A selector that lets time jump, but not while the database works."""

    def __init__(self, loop: DatabaseLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        waits = loop.awaits_answer and (timeout is None or timeout > 0)
        wait = _PATIENCE_SECONDS[loop.is_blocked] if waits else 0.0
        found = super().select(wait)
        events = [event for event in found if not loop.is_asleep(event[0])] if loop.frozen else found
        if events:
            loop.idle_turns = 0
        elif wait:
            loop.pass_time(_STEP_SECONDS if timeout is None else min(timeout, _STEP_SECONDS))
        else:
            loop.pass_time(timeout)
        return events


class Rows:
    """Reads committed rows on a connection of its own, while the simulation stands still."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rows", daemon=True)
        self._thread.start()
        self._connection: asyncpg.Connection[asyncpg.Record] = self._run(asyncpg.connect(url))

    def read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read rows with a statement that is written for SQLite."""
        found: list[tuple[Any, ...]] = self._run(fetch_rows(self._connection, statement, *values))
        return found

    def execute(self, statement: str) -> None:
        """Run a statement."""
        self._run(self._connection.execute(statement))

    def close(self) -> None:
        """Close the connection and end the thread."""
        self._run(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(_await(work), self._loop).result()


async def _await(work: Any) -> Any:
    return await work


def use_simulated_clock(rows: Rows, clock_file: Path) -> None:
    """Let the database take its time from a file."""
    rows.execute(_CLOCK_FUNCTION.format(file=clock_file))
