"""The host of the service: starts, stops and crashes it repeatedly, in virtual time.

The service's own code wires the service. Only the outside world is replaced: the clock, randomness, outgoing
connections, the listeners, and the threads of the store's connections. Their work runs on the loop, so that one seed
gives one run.
"""

import asyncio
import contextlib
import math
import sqlite3
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest
import structlog
from chaos.virtual_time import INCARNATION, VirtualClock

from receiver.archive import previews
from receiver.domain.clock import Clock, Ids
from receiver.domain.model import Task
from receiver.net.http_client import HttpClient, Resolve
from receiver.service import bootstrap, listeners, measurements, stores, supervisor
from receiver.service.reload import Reloader
from receiver.service.systemd import SystemdNotifier
from receiver.settings import Loaded, Settings
from receiver.store.interfaces import ApplyCall, Change, Decide, TaskRef
from receiver.store.sqlite import database, store, writer
from receiver.store.sqlite.store import SqliteStore
from receiver.store.sqlite.tasks import SqliteTaskStore

HOST: ContextVar["SimulatedHost"] = ContextVar("host")
"""The host of the service that work belongs to."""

_INCARNATIONS = count(1)
_GRACE = 5.0
_DISK_FULL_PROBABILITY = 0.3
_IDLE_PROBABILITY = 0.5
_RESTART_SECONDS = 10.0
_WRITE_FUNCTIONS = (
    writer._begin_and_load, writer._write_alone, writer._write_and_commit, writer._begin_at_once, writer._write,
)  # fmt: skip


class HostDownError(Exception):
    """No process listens, or the process died."""


@dataclass(frozen=True, slots=True)
class AsgiResponse:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class SimulatedHost:
    """Runs one service at a time. ``report`` receives every violation."""

    settings: Settings
    clock: VirtualClock
    rng: Random
    resolve: Resolve
    report: Callable[[str], None]
    watch_attempt: Callable[[Mapping[str, str]], AbstractContextManager[None]] = lambda _headers: nullcontext()
    on_task_stored: Callable[[Task], None] = lambda _task: None
    newest_stored_id: Callable[[], str] = lambda: ""
    on_request: Callable[[str, str], None] = lambda _method, _url: None
    start_errors: tuple[type[Exception], ...] = ()
    free_bytes: int = 1 << 40
    disk_is_full: bool = False
    incarnation: int = 0
    crashes: int = 0
    stops: int = 0
    refused_starts: int = 0
    logged: Counter[str] = field(default_factory=Counter)
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    _apps: dict[str, Any] = field(default_factory=dict)
    _tasks: dict[int, dict["asyncio.Task[Any]", None]] = field(default_factory=dict)
    _threads: list["SimulatedThread"] = field(default_factory=list)
    _requests: set["asyncio.Task[AsgiResponse]"] = field(default_factory=set)
    _stop_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _context: Context = field(default_factory=copy_context)
    _main: "asyncio.Task[int] | None" = None
    _is_serving: asyncio.Event = field(default_factory=asyncio.Event)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Replace the outside world of this host, and of others in the same test."""
        entropy = Random(self.rng.random())

        class MonotonicIds(Ids):
            """Seeded ids that increase even if the clock is set back."""

            def __init__(self, clock: Clock, *, after: str = "") -> None:
                super().__init__(clock, entropy.randbytes, after=after)
                self._host = HOST.get()
                self._newest = self._host.newest_stored_id()

            def new(self, prefix: str) -> str:
                made = super().new(prefix)
                if made.partition("_")[2] <= self._newest:
                    self._host.report(f"an id does not increase: {made}")
                self._newest = made.partition("_")[2]
                return made

        class SimulatedStore(SqliteStore):
            """The real store, on the simulated clock and disk."""

            @classmethod
            async def open(cls, path: Path, **_: Any) -> Self:
                host = HOST.get()
                return await super().open(path, clock=host.clock, free=lambda _: host.free_bytes)

        class ObservedHttpClient(HttpClient):
            """The real HTTP client, on the simulated network. Each attempt is watched while it is in flight."""

            def __init__(self, **known: Any) -> None:
                self._host = HOST.get()
                super().__init__(**known, resolve=self._host.resolve)

            async def request(self, method: str, url: str, **known: Any) -> Any:
                self._host.on_request(method, url)
                return await super().request(method, url, **known)

            async def stream(self, url: str, *, headers: Mapping[str, str] | None = None, **known: Any) -> Any:
                with self._host.watch_attempt(headers or {}):
                    return await super().stream(url, headers=headers, **known)

        patch.setattr(measurements, "INTERVAL", timedelta(minutes=10))  # once a second is nearly all the work of a run
        patch.setattr(bootstrap, "SystemClock", lambda: HOST.get().clock)
        patch.setattr(bootstrap, "SystemRandom", lambda: Random(entropy.random()))
        patch.setattr(bootstrap, "Ids", MonotonicIds)
        patch.setattr(stores, "SqliteStore", SimulatedStore)
        patch.setattr(store, "SqliteTaskStore", ObservedTaskStore)
        patch.setattr(bootstrap, "HttpClient", ObservedHttpClient)
        patch.setattr(listeners, "_listener", lambda name, app, *_: _Listener(HOST.get(), name, app))
        patch.setattr(previews, "in_thread", _run_inline)  # no threads take part
        patch.setattr(supervisor, "stop_signals", lambda: HOST.get()._stop_requested)
        patch.setattr(database, "ConnectionThread", _ThreadOpener())
        patch.setattr(writer, "_MAX_SECONDS_ON_LOOP", math.inf)  # the path of a write must not depend on real time
        structlog.configure(
            processors=[self._log],
            wrapper_class=structlog.make_filtering_bound_logger(30),
            cache_logger_on_first_use=False,
        )
        asyncio.get_running_loop().set_task_factory(_make_task)

    def _log(self, _: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        self.logged[line["event"]] += 1
        self.last_lines.append(f"{self.clock.now():%d %H:%M:%S.%f} {line}")
        if line["event"] in ("service.failed", "sender.failed", "request.failed", "callback.failed", "store.broken"):
            self.report(f"logged: {line} {traceback.format_exc() if line.get('exc_info') else ''}")
        raise structlog.DropEvent

    async def start(self) -> None:
        """Start the service and wait until it serves; restart it while the disk is full."""
        while not await self._start_once():
            self.refused_starts += 1
            await asyncio.sleep(_RESTART_SECONDS)

    async def _start_once(self) -> bool:
        assert self._main is None
        self.incarnation = next(_INCARNATIONS)
        self._context = copy_context()
        self._context.run(INCARNATION.set, self.incarnation)
        self._context.run(HOST.set, self)
        self._stop_requested = asyncio.Event()
        self._main = asyncio.get_running_loop().create_task(self._run_service(), context=self._context)
        ready = asyncio.create_task(self._is_serving.wait())
        await asyncio.wait([self._main, ready], return_when=asyncio.FIRST_COMPLETED)
        if not self._main.done():
            return True
        ready.cancel()
        if not (self.disk_is_full or isinstance(self._main.exception(), self.start_errors)):
            raise RuntimeError("it does not start\n" + "\n".join(self.last_lines)) from self._main.exception()
        self._reset()
        return False

    async def _run_service(self) -> int:
        async with contextlib.AsyncExitStack() as stack:
            systemd = SystemdNotifier()
            loaded, requested = Loaded(settings=self.settings), asyncio.Event()
            reloader = Reloader(loaded, requested=requested, systemd=systemd, clock=self.clock)
            return await (await bootstrap.build_service(self.settings, {}, stack, reloader, systemd)).run(systemd)

    async def stop(self) -> None:
        """Stop the service as systemd does, and wait for its end."""
        assert self._main is not None
        self.stops += 1
        self._stop_requested.set()
        code = await self._main
        if code != 0:
            self.report(f"a requested stop ended with {code}")
        self._reset()

    async def crash(self) -> None:
        """End the service like kill -9: uncommitted work is lost, requests already sent continue."""
        self.crashes += 1
        self._is_serving.clear()
        for lane in self._threads:
            lane.kill()
        mine = self._tasks.get(self.incarnation, {})
        for turn in range(10_000):
            if not mine:
                break
            if turn % 100 == 0:
                for task in list(mine):
                    task.cancel()
            await asyncio.sleep(0)
        else:
            self.report(f"these tasks do not end: {list(mine)}")
        self._reset()

    def check_alive(self) -> None:
        """Report it if the service ended by itself."""
        if self._main is not None and self._main.done():
            self.report(f"the service ended by itself: {self._main.exception() or self._main.result()!r}")

    def _reset(self) -> None:
        if self._main is not None and self._main.done() and not self._main.cancelled():
            self._main.exception()
        self._main = None
        self._is_serving.clear()
        self._threads.clear()
        self._apps.clear()

    async def call(
        self, listener: str, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b""
    ) -> AsgiResponse:
        """Send a request to one of the listeners. Raises HostDownError if there is no answer."""
        if not self._is_serving.is_set() or listener not in self._apps:
            raise HostDownError
        work = asgi_request(self._apps[listener], method, path, headers, body)
        request = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        await asyncio.wait([request])
        if request.cancelled():
            raise HostDownError
        return request.result()


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None) -> "asyncio.Task[Any]":
    """Make a task, and let the host of its service know it."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    owner = copy_context() if context is None else context  # an empty one is false
    if incarnation := owner.get(INCARNATION, 0):
        mine = owner[HOST]._tasks.setdefault(incarnation, {})
        mine[task] = None
        task.add_done_callback(lambda done: mine.pop(done, None))
    return task


async def _run_inline(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return work(*args, **kwargs)


class _Listener:
    """Takes requests from the host instead of a socket, and stops like the real listener."""

    addresses = ()

    def __init__(self, host: SimulatedHost, name: str, app: Any) -> None:
        self.started = asyncio.Event()
        self._host = host
        host._apps[name] = app

    async def serve(self, stop: asyncio.Event) -> None:
        self.started.set()
        self._host._is_serving.set()
        await stop.wait()
        self._host._is_serving.clear()
        self.started.clear()
        if self._host._requests:
            _, late = await asyncio.wait(self._host._requests, timeout=_GRACE)
            for request in late:
                request.cancel()


class _ThreadOpener:
    """Opens simulated threads instead of the store's own."""

    async def open(self, connect: Callable[[], sqlite3.Connection], *, name: str) -> "SimulatedThread":
        host = HOST.get()
        lane = SimulatedThread(host, connect(), writes="writer" in name)
        host._threads.append(lane)
        return lane


class SimulatedThread:
    """A database connection whose work runs on the loop, after a seeded number of loop turns."""

    def __init__(self, host: SimulatedHost, connection: sqlite3.Connection, *, writes: bool) -> None:
        self._host = host
        self._connection: sqlite3.Connection | None = connection
        self._writes = writes

    @property
    def is_idle(self) -> bool:
        """Whether the event loop may use the connection: by chance, so that the service does its work in both ways."""
        return self._host.rng.random() < _IDLE_PROBABILITY

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        for _ in range(self._host.rng.randrange(4)):
            await asyncio.sleep(0)
        done = self.run_here(function, *args, **kwargs)
        for _ in range(self._host.rng.randrange(4)):
            await asyncio.sleep(0)
        return done

    def run_here(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._connection is None:
            raise asyncio.CancelledError
        refused = self._writes and self._host.disk_is_full and function in _WRITE_FUNCTIONS
        if refused and self._host.rng.random() < _DISK_FULL_PROBABILITY:
            raise _disk_full()
        return function(self._connection, *args, **kwargs)

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


async def asgi_request(
    app: Any, method: str, path: str, headers: Mapping[str, str], body: bytes, *, query: str = ""
) -> AsgiResponse:
    """Send one request to an ASGI app."""
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
    return AsgiResponse(said[0]["status"], names, b"".join(message.get("body", b"") for message in said[1:]))


class ObservedTaskStore(SqliteTaskStore):
    """The real task store; reports each committed task."""

    async def apply(self, ref: TaskRef, decide: Decide, *, with_pending: bool = False) -> Change | None:
        change = await super().apply(ref, decide, with_pending=with_pending)
        _observe(change)
        return change

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        changes = await super().apply_all(calls)
        for change in changes:
            _observe(change)
        return changes


def _observe(change: Change | BaseException | None) -> None:
    if isinstance(change, Change) and change.task is not None:
        HOST.get().on_task_stored(change.task)
