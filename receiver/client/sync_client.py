"""The client for programs without an event loop: the very same one, with a loop on a thread of its own."""

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
    """An event loop on a thread of its own, on which other threads have things done."""

    def __init__(self, *, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """*last* is done when all else has ended."""
        self._on_close = on_close
        self._started = threading.Event()
        self._submit_lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._main(),), name="client of the receiver", daemon=True
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
        """Have *work* done, and wait for what comes of it; whoever stops waiting stops the work."""
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
        """End the loop and all that is still being done on it."""
        with self._submit_lock:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._is_closed = True
        self._thread.join()


def _closed_error() -> ServiceUnreachable:
    return ServiceUnreachable("The client is closed.", remedy="Ask while it is open: inside its `with`.")


class _Exhausted:
    """Stands for what would follow the last one."""


_EXHAUSTED = _Exhausted()


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncClient", P], T]:
    """Ask the same, and wait for the answer."""

    @wraps(method)
    def answer(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.loop.run(method(self.client, *args, **kwargs))

    return answer


def _iterating(
    method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["SyncClient", P], Generator[T, None, None]]:
    """Ask the same, and give one answer after the other."""

    @wraps(method)
    def answers(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        source = method(self.client, *args, **kwargs)
        turn = asyncio.Lock()

        async def following() -> T | _Exhausted:
            async with turn:
                return await anext(source, _EXHAUSTED)

        async def leave() -> None:
            async with turn:  # whoever was interrupted while it asked may still be on its way out
                await source.aclose()

        try:
            while not isinstance(answer := self.loop.run(following()), _Exhausted):
                yield answer
        finally:
            with suppress(ServiceUnreachable):  # a closed client has left it already
                self.loop.run(leave())

    return answers


class SyncClient:
    """The client for plain programs: what :class:`Client` does, without ``await``. Threads may share one."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        config: Path | str | None = None,
        outage_tolerance: timedelta = OUTAGE_TOLERANCE,
    ) -> None:
        self.client = Client(url, token, config=config, outage_tolerance=outage_tolerance)
        self.loop = _Loop(on_close=self.client.aclose)
        self.url = self.client.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; what other threads still ask for is given up."""
        self.loop.close()

    submit = _blocking(Client.submit)
    task = _blocking(Client.task)
    tasks = _blocking(Client.tasks)
    cancel = _blocking(Client.cancel)
    counts = _blocking(Client.counts)
    wait = _blocking(Client.wait)
    follow = _iterating(Client.follow)
    batch = _blocking(Client.batch)
    batches = _blocking(Client.batches)
    close_batch = _blocking(Client.close_batch)
    wait_for_batch = _blocking(Client.wait_for_batch)
    follow_batch = _iterating(Client.follow_batch)
    costs = _blocking(Client.costs)
    events = _iterating(Client.events)
    changes = _iterating(Client.changes)
    event = _blocking(Client.event)
    list_events = _blocking(Client.list_events)
    deliveries = _blocking(Client.deliveries)
    delivery = _blocking(Client.delivery)
    get = _blocking(Client.get)
    post = _blocking(Client.post)
