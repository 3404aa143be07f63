"""The blocking client: runs :class:`Client` on an event loop in its own thread."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from receiver.client.client import OUTAGE_TOLERANCE, Client
from receiver.domain.errors import ServiceUnreachable

T = TypeVar("T")
P = ParamSpec("P")


class _Loop:
    """An event loop in its own thread, on which other threads run coroutines."""

    def __init__(self, *, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """*on_close* runs after everything else on the loop has ended."""
        self._on_close = on_close
        self._started = threading.Event()
        self._submit_lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._main(),), name="kling-receiver-client", daemon=True
        )
        self._thread.start()
        self._started.wait()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._on_close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result. An interrupted caller cancels it."""
        with self._submit_lock:
            if self._is_closed:
                coroutine.close()
                raise _closed_error()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError as exc:
            raise _closed_error() from exc
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop the loop and cancel everything that still runs on it."""
        with self._submit_lock:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._is_closed = True
        self._thread.join()


def _closed_error() -> ServiceUnreachable:
    return ServiceUnreachable("The client is closed.", remedy="Use it inside its `with` block.")


class _Exhausted:
    """Marks the end of an iteration."""


_EXHAUSTED = _Exhausted()


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncClient", P], T]:
    """Return the blocking version of a coroutine method."""

    @wraps(method)
    def call(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.loop.run(method(self.client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["SyncClient", P], Generator[T, None, None]]:
    """Return the blocking version of an asynchronous generator method."""

    @wraps(method)
    def iterate(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        source = method(self.client, *args, **kwargs)
        lock = asyncio.Lock()

        async def advance() -> T | _Exhausted:
            async with lock:
                return await anext(source, _EXHAUSTED)

        async def close() -> None:
            async with lock:  # an interrupted advance() may still be running
                await source.aclose()

        try:
            while not isinstance(item := self.loop.run(advance()), _Exhausted):
                yield item
        finally:
            with suppress(ServiceUnreachable):  # a closed client has closed the generator already
                self.loop.run(close())

    return iterate


class SyncClient:
    """The blocking client: like :class:`Client`, without ``await``. Threads may share one."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        config: Path | str | None = None,
        profile: str | None = None,
        outage_tolerance: timedelta = OUTAGE_TOLERANCE,
    ) -> None:
        self.client = Client(url, token, config=config, profile=profile, outage_tolerance=outage_tolerance)
        self.loop = _Loop(on_close=self.client.aclose)
        self.url = self.client.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and cancel the calls of other threads."""
        self.loop.close()

    submit = _blocking(Client.submit)
    task = _blocking(Client.task)
    tasks = _blocking(Client.tasks)
    cancel = _blocking(Client.cancel)
    retry = _blocking(Client.retry)
    delete = _blocking(Client.delete)
    details = _blocking(Client.details)
    counts = _blocking(Client.counts)
    wait = _blocking(Client.wait)
    follow = _iterating(Client.follow)
    batch = _blocking(Client.batch)
    batches = _blocking(Client.batches)
    close_batch = _blocking(Client.close_batch)
    wait_for_batch = _blocking(Client.wait_for_batch)
    follow_batch = _iterating(Client.follow_batch)
    costs = _blocking(Client.costs)
    check_costs = _blocking(Client.check_costs)
    estimate_cost = _blocking(Client.estimate_cost)
    events = _iterating(Client.events)
    changes = _iterating(Client.changes)
    event = _blocking(Client.event)
    list_events = _blocking(Client.list_events)
    deliveries = _blocking(Client.deliveries)
    delivery = _blocking(Client.delivery)
    alerts = _blocking(Client.alerts)
    alert = _blocking(Client.alert)
    acknowledge_alert = _blocking(Client.acknowledge_alert)
    get = _blocking(Client.get)
    post = _blocking(Client.post)
