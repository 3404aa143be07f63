"""The machine the service runs on: it starts, stops and crashes there, in virtual time, over and over.

The service is put together by its own code. Only what touches the world is exchanged: the clock, chance, the
connections out, the listeners, and the threads of the store's connections, whose work is done on the loop, so that
a run is the same again for the same seed.
"""

import asyncio
import contextlib
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
import structlog
from chaos.virtual_time import VirtualClock
from httpcore2._async import http11

from receiver.domain.clock import Clock, Ids
from receiver.domain.model import Task
from receiver.net.http_client import Outbound, Reply, Resolve
from receiver.service import bootstrap, supervisor
from receiver.service.systemd import Notifier
from receiver.settings import Settings
from receiver.store.interfaces import Change, Judge, TaskRef
from receiver.store.sqlite import store as sqlite_store
from receiver.store.sqlite import writer
from receiver.store.sqlite.store import SqliteStore

_LIFE: ContextVar[int] = ContextVar("life", default=0)
_GRACE = 5.0
_FULL = 0.3
_START_AGAIN = 10.0
_WRITING = (writer._begin_and_look, writer._write_and_commit)


class GoneError(Exception):
    """Nobody listens, or whoever listened is dead."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Machine:
    """Runs one service at a time. ``wrong`` is told what must never be."""

    settings: Settings
    clock: VirtualClock
    rng: Random
    resolve: Resolve
    watch: Callable[[Mapping[str, str]], AbstractContextManager[None]]
    wrong: Callable[[str], None]
    saw_task: Callable[[Task], None]
    newest_kept: Callable[[], str]
    free: int = 1 << 40
    disk_is_full: bool = False
    lives: int = 0
    crashes: int = 0
    stops: int = 0
    refused_starts: int = 0
    logged: Counter[str] = field(default_factory=Counter)
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    _apps: dict[str, Any] = field(default_factory=dict)
    _tasks: dict[int, dict["asyncio.Task[Any]", None]] = field(default_factory=dict)
    _lanes: list["Lane"] = field(default_factory=list)
    _requests: set["asyncio.Task[Answer]"] = field(default_factory=set)
    _asked_to_stop: asyncio.Event = field(default_factory=asyncio.Event)
    _context: Context = field(default_factory=copy_context)
    _main: "asyncio.Task[int] | None" = None
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Exchange what touches the world."""
        machine = self
        entropy = Random(self.rng.random())

        class RisingIds(Ids):
            """Ids made of seeded chance, which must rise whatever the clock does."""

            def __init__(self, clock: Clock, *, above: str = "") -> None:
                super().__init__(clock, entropy.randbytes, above=above)
                self._newest = machine.newest_kept()

            def new(self, prefix: str) -> str:
                made = super().new(prefix)
                if made.partition("_")[2] <= self._newest:
                    machine.wrong(f"an id does not rise: {made}")
                self._newest = made.partition("_")[2]
                return made

        class Store(SqliteStore):
            """The real store, which says what it committed about tasks."""

            @classmethod
            async def open(cls, path: Path, **_: Any) -> Self:
                return await super().open(path, clock=machine.clock, free=lambda _: machine.free)

            async def apply(self, ref: TaskRef, judge: Judge, *, with_pending: bool = False) -> Change | None:
                change = await super().apply(ref, judge, with_pending=with_pending)
                if change is not None and change.task is not None:
                    machine.saw_task(change.task)
                return change

        class WayOut(Outbound):
            """The real way out, to the addresses of this world; each request is watched for as long as it lasts."""

            def __init__(self, **known: Any) -> None:
                super().__init__(**known, resolve=machine.resolve)

            async def request(
                self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **known: Any
            ) -> Reply:
                with machine.watch(headers or {}):
                    return await super().request(method, url, headers=headers, **known)

        patch.setattr(bootstrap, "SystemClock", lambda: machine.clock)
        patch.setattr(bootstrap, "SystemRandom", lambda: Random(entropy.random()))
        patch.setattr(bootstrap, "Ids", RisingIds)
        patch.setattr(bootstrap, "SqliteStore", Store)
        patch.setattr(bootstrap, "Outbound", WayOut)
        patch.setattr(http11, "time", machine.clock)  # by which a connection is too old to be used again
        patch.setattr(bootstrap, "_listener", lambda name, app, *_: _Listener(machine, name, app))
        patch.setattr(supervisor, "stop_signals", lambda: machine._asked_to_stop)
        patch.setattr(sqlite_store, "Lane", _Lanes(machine))
        structlog.configure(
            processors=[machine._log],
            wrapper_class=structlog.make_filtering_bound_logger(30),
            cache_logger_on_first_use=False,
        )
        asyncio.get_running_loop().set_task_factory(self._make_task)

    def _log(self, _: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        self.logged[line["event"]] += 1
        self.last_lines.append(f"{self.clock.now():%d %H:%M:%S.%f} {line}")
        if line["event"] in ("service.failed", "sender.broken", "request.failed", "callback.failed", "store.broken"):
            self.wrong(f"logged: {line}")
        raise structlog.DropEvent

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        life = (copy_context() if context is None else context).get(_LIFE, 0)  # one that is empty is false, and outside
        if life:
            mine = self._tasks.setdefault(life, {})
            mine[task] = None
            task.add_done_callback(lambda done: mine.pop(done, None))
        return task

    async def start(self) -> None:
        """Start the service, as often as it takes while the disk is full, and wait until it serves."""
        while not await self._start():
            self.refused_starts += 1
            await asyncio.sleep(_START_AGAIN)

    async def _start(self) -> bool:
        assert self._main is None
        self.lives += 1
        self._context = copy_context()
        self._context.run(_LIFE.set, self.lives)
        self._asked_to_stop = asyncio.Event()
        self._main = asyncio.get_running_loop().create_task(self._live(), context=self._context)
        ready = asyncio.create_task(self._up.wait())
        await asyncio.wait([self._main, ready], return_when=asyncio.FIRST_COMPLETED)
        if not self._main.done():
            return True
        ready.cancel()
        if not self.disk_is_full:
            raise RuntimeError("it does not start\n" + "\n".join(self.last_lines)) from self._main.exception()
        self._gone()
        return False

    async def _live(self) -> int:
        async with contextlib.AsyncExitStack() as stack:
            return await (await bootstrap._assemble(self.settings, {}, stack)).run(Notifier())

    async def stop(self) -> None:
        """Ask it to stop, as systemd does, and wait until it has."""
        assert self._main is not None
        self.stops += 1
        self._asked_to_stop.set()
        code = await self._main
        if code != 0:
            self.wrong(f"a stop that was asked for ended with {code}")
        self._gone()

    async def crash(self) -> None:
        """End it as kill -9 does: what is not committed is gone, what was begun outside goes on without it."""
        self.crashes += 1
        self._up.clear()
        for lane in self._lanes:
            lane.kill()
        mine = self._tasks.get(self.lives, {})
        for turn in range(10_000):
            if not mine:
                break
            if turn % 100 == 0:
                for task in list(mine):
                    task.cancel()
            await asyncio.sleep(0)
        else:
            self.wrong(f"cannot be ended: {list(mine)}")
        self._gone()

    def check_alive(self) -> None:
        """See that it has not ended by itself."""
        if self._main is not None and self._main.done():
            self.wrong(f"it ended by itself: {self._main.exception() or self._main.result()!r}")

    def _gone(self) -> None:
        if self._main is not None and self._main.done() and not self._main.cancelled():
            self._main.exception()
        self._main = None
        self._up.clear()
        self._lanes.clear()
        self._apps.clear()

    async def call(
        self, listener: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b""
    ) -> Answer:
        """Make a request of one of its listeners. Raises GoneError where no answer comes."""
        if not self._up.is_set() or listener not in self._apps:
            raise GoneError
        work = ask(self._apps[listener], method, path, headers, body)
        request = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        await asyncio.wait([request])
        if request.cancelled():
            raise GoneError
        return request.result()


class _Listener:
    """Takes requests from the machine instead of from a socket, and ends as the real one does."""

    addresses = ()

    def __init__(self, machine: Machine, name: str, app: Any) -> None:
        self.started = asyncio.Event()
        self._machine = machine
        machine._apps[name] = app

    async def serve(self, stop: asyncio.Event) -> None:
        self.started.set()
        self._machine._up.set()
        await stop.wait()
        self._machine._up.clear()
        self.started.clear()
        if self._machine._requests:
            _, late = await asyncio.wait(self._machine._requests, timeout=_GRACE)
            for request in late:
                request.cancel()


class _Lanes:
    """Opens lanes in the place of the store's own."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def open(self, connect: Callable[[], sqlite3.Connection], *, name: str) -> "Lane":
        lane = Lane(self._machine, connect(), writes="writer" in name)
        self._machine._lanes.append(lane)
        return lane


class Lane:
    """A connection whose work is done on the loop, after a seeded number of turns in which others may come first."""

    def __init__(self, machine: Machine, connection: sqlite3.Connection, *, writes: bool) -> None:
        self._machine = machine
        self._connection: sqlite3.Connection | None = connection
        self._writes = writes

    async def run(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        for _ in range(self._machine.rng.randrange(4)):
            await asyncio.sleep(0)
        if self._connection is None:
            raise asyncio.CancelledError
        refused = self._writes and self._machine.disk_is_full and work in _WRITING
        if refused and self._machine.rng.random() < _FULL:
            raise _disk_full()
        done = work(self._connection, *args, **kwargs)
        for _ in range(self._machine.rng.randrange(4)):
            await asyncio.sleep(0)
        return done

    def kill(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def aclose(self) -> None:
        self.kill()


def _disk_full() -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


async def ask(app: Any, method: str, path: str, headers: Mapping[str, str], body: bytes, *, query: str = "") -> Answer:
    """Make one request of an ASGI app."""
    sent = [{"type": "http.request", "body": body, "more_body": False}]
    said: list[Any] = []

    async def receive() -> Any:
        if not sent:
            await asyncio.Event().wait()
        return sent.pop()

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("203.0.113.9", 50000),
        "server": ("127.0.0.1", 8700),
    }
    await app(scope, receive, send)
    names = {name.decode().lower(): value.decode() for name, value in said[0]["headers"]}
    return Answer(said[0]["status"], names, b"".join(message.get("body", b"") for message in said[1:]))
