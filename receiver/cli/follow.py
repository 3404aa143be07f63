"""Following tasks until they are over.

The stream of events only says when to look; what is true is asked of the service. Where the stream cannot be had,
the same question is asked by the clock.
"""

from collections.abc import Iterator
from datetime import timedelta
from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import Self

from receiver.cli.connection import Connection
from receiver.errors import ReceiverError
from receiver.model import Archiving, Json, TaskState

_ASK_ANYWAY_SECONDS = 15.0  # with the stream there: a bell may be missed
_ASK_SECONDS = 2.0  # without it
_ASK_FOR_FILES_SECONDS = 1.0  # of which the stream says nothing
_RECONNECT_SECONDS = 1.0

OVER = frozenset((TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED))


class Listener:
    """Listens to the stream of events, across reconnects, and tells when a task is worth asking about again."""

    def __init__(self, connection: Connection, *, task_id: str | None = None) -> None:
        self._connection = connection
        self._task_id = task_id
        self._rung = Event()
        self._stopped = Event()
        self._connected = False
        self._thread = Thread(target=self._listen, name="stream of events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()

    def wait(self, *, at_most: float | None = None) -> None:
        """Wait until it is worth asking again, at the longest *at_most* seconds."""
        patience = _ASK_ANYWAY_SECONDS if self._connected else _ASK_SECONDS
        self._rung.wait(patience if at_most is None else max(0.0, min(patience, at_most)))
        self._rung.clear()

    def _listen(self) -> None:
        seen: str | None = None
        with self._connection.another() as own:
            while not self._stopped.is_set():
                try:
                    with own.stream(after=seen, task_id=self._task_id) as events:
                        seen = self._hear(events, seen)
                except ReceiverError:
                    pass  # asking by the clock goes on meanwhile
                self._connected = False
                self._stopped.wait(_RECONNECT_SECONDS)

    def _hear(self, events: Iterator[tuple[str, Json]], seen: str | None) -> str | None:
        self._connected = True
        self._rung.set()  # for what happened before we listened
        for event_id, _ in events:
            seen = event_id or seen
            self._rung.set()
            if self._stopped.is_set():
                break
        return seen


def follow(connection: Connection, ref: str, *, timeout: timedelta | None = None) -> Iterator[Json]:
    """Give the task now and each time its state changes, until it is over or *timeout* has passed.

    A task whose results are still on their way home is not over.
    """
    task = connection.get(f"/api/tasks/{ref}")
    yield task
    started = perf_counter()
    with Listener(connection, task_id=task["id"]) as listener:
        while task["state"] not in OVER or awaits_files(task):
            left = None if timeout is None else timeout.total_seconds() - (perf_counter() - started)
            if left is not None and left <= 0:
                return
            if awaits_files(task):
                left = _ASK_FOR_FILES_SECONDS if left is None else min(left, _ASK_FOR_FILES_SECONDS)
            listener.wait(at_most=left)
            before, task = task, connection.get(f"/api/tasks/{task['id']}")
            if (task["state"], awaits_files(task)) != (before["state"], awaits_files(before)):
                yield task


def awaits_files(task: Json) -> bool:
    """Whether a task's results are on their way home, and its routes are told when they are there."""
    return bool(task.get("archiving") == Archiving.AWAITED)
