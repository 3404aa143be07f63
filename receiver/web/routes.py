"""Routes over HTTP: how each fares, and whether it gets through."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from time import perf_counter
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.clock import Clock, Ids
from receiver.errors import NotFound
from receiver.model import Event, Origin, RouteState, Source, Task, TaskState, Verified
from receiver.payload import envelope, task_data
from receiver.senders import Parcel, Sender
from receiver.settings import RouteSettings
from receiver.store import Catalog
from receiver.web import shown
from receiver.web.asked import Query, read_fields

FindSender = Callable[[str], Sender | None]
"""Finds the sender of a route by the route's name."""

_ENDPOINT = "images/multi-image2image"
_IMAGE = {"index": 0, "url": "https://example.com/test.png"}
_MESSAGE = "A test of the route: no such task exists."


class RouteStates(Protocol):
    """Remembers how routes fare."""

    async def route_states(self) -> Mapping[str, RouteState]:
        """Give what is remembered about each route."""
        ...


class RouteApi:
    """Answers ``/api/routes``."""

    def __init__(
        self,
        routes: Sequence[RouteSettings],
        *,
        states: RouteStates,
        senders: FindSender,
        catalog: Catalog,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._routes = routes
        self._states = states
        self._senders = senders
        self._catalog = catalog
        self._clock = clock
        self._ids = ids

    async def list(self, request: Request) -> Response:
        """List all routes, in the configuration's order."""
        Query(request, paged=False)
        states = await self._states.route_states()
        backlog = {each.route: each for each in await self._catalog.backlog()}
        return shown.routes(
            [shown.route(route, states.get(route.name), backlog.get(route.name)) for route in self._routes]
        )

    async def test(self, request: Request) -> Response:
        """Send a made-up success through a route, once, and tell what came of it. Nothing is stored."""
        Query(request, paged=False)
        await read_fields(request, known=())
        name = request.path_params["name"]
        sender = self._senders(name) if name in {route.name for route in self._routes} else None
        if sender is None:
            raise NotFound(f"There is no route {name[:64]!r}.")
        parcel = Parcel(delivery_id=self._ids.new("dlv"), event=self._made_up(), attempt=1, at=self._clock.now())
        began = perf_counter()
        outcome = await sender.send(parcel)
        return shown.answer(shown.outcome(outcome, duration=timedelta(seconds=perf_counter() - began)))

    def _made_up(self) -> Event:
        """Make an event that looks like any other; its tag and its message say what it is."""
        now, event_id = self._clock.now(), self._ids.new("evt")
        task = Task(
            id=self._ids.new("tsk"),
            origin=Origin.API,
            state=TaskState.SUCCEED,
            endpoint=_ENDPOINT,
            label="test",
            tags={"test": "true"},
            kling_id="0",
            message=_MESSAGE,
            created_at=now,
            updated_at=now,
        )
        data = task_data(
            task,
            event_id=event_id,
            state=TaskState.SUCCEED,
            message=_MESSAGE,
            source=Source.CALLBACK,
            verified=Verified.NONE,
            result={"images": [_IMAGE]},
        )
        body = {
            "task_id": task.kling_id,
            "task_status": TaskState.SUCCEED.value,
            "task_status_msg": _MESSAGE,
            "task_result": {"images": [_IMAGE]},
        }
        return Event(
            id=event_id,
            type="task.succeed",
            envelope=envelope("task.succeed", now, data),
            body=json.dumps(body).encode(),
            verified=Verified.NONE,
            created_at=now,
            task_id=task.id,
        )
