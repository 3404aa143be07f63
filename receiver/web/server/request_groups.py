"""Requests that arrive at the same moment, answered by one task.

A task for each small request costs more CPU time than the work itself. So an app may take requests in groups: those
whose body arrived together with their head, and that need nothing special. All others get a task of their own.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec
from starlette.types import Scope

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class WholeRequest(msgspec.Struct, frozen=True):
    """A request with its body. ``respond`` sends the complete response, and must be called once."""

    scope: Scope
    body: bytes
    respond: Callable[[int, Headers, bytes], object]


class GroupApp(Protocol):
    """An app that answers some requests in groups."""

    def takes(self, scope: Scope) -> bool:
        """Return whether a group answers a request with this head, which must be plain: see ``plain_fields``."""
        ...

    async def answer_group(self, requests: Sequence[WholeRequest]) -> None:
        """Answer each of the requests, also if another one fails."""
        ...


def plain_fields(scope: Scope, *, max_body: int) -> Mapping[bytes, bytes] | None:
    """Return the header fields of a plain request, or None for any other.

    A plain request has each field once, a host, and a body of a declared size of at most *max_body*, without codings.
    """
    listed = scope["headers"]
    fields: dict[bytes, bytes] = dict(listed)
    is_plain = (
        len(fields) == len(listed)
        and b"host" in fields
        and int(fields.get(b"content-length", max_body + 1)) <= max_body
        and b"content-encoding" not in fields
        and b"transfer-encoding" not in fields
    )
    return fields if is_plain else None


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
