"""Requests that arrive at the same moment, answered by one task.

A task for each small request costs more CPU time than the work itself. So an app may take requests in groups: those
whose body arrived together with their head, and that need nothing special. All others get a task of their own.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from starlette.types import Scope

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class WholeRequest:
    """A request with its body. ``respond`` sends the complete response, and must be called once."""

    scope: Scope
    body: bytes
    respond: Callable[[int, Headers, bytes], object]


class GroupApp(Protocol):
    """An app that answers some requests in groups."""

    def takes(self, scope: Scope) -> bool:
        """Return whether a request with this head may be answered in a group."""
        ...

    async def answer_group(self, requests: Sequence[WholeRequest]) -> None:
        """Answer each of the requests, also if another one fails."""
        ...


class RequestGroups:
    """Collects the requests of one turn of the event loop, and starts one task for them.

    *tasks* are those that the listener waits for when it stops.
    """

    def __init__(self, app: GroupApp, tasks: set[asyncio.Task[Any]]) -> None:
        self._app = app
        self._tasks = tasks
        self._waiting: list[WholeRequest] = []
        self.takes = app.takes

    def add(self, request: WholeRequest) -> None:
        """Add a request that the app takes."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._start)
        self._waiting.append(request)

    def _start(self) -> None:
        group, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._app.answer_group(group))
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)
