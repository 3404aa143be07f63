"""Routes over HTTP: their state, hold and release, and a test delivery."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from time import perf_counter
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.api_schema.json_object import Page
from receiver.domain.api_schema.resources import Route
from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import NotFound
from receiver.domain.model import Event, Origin, RouteState, Source, Task, TaskState, Verification
from receiver.events.payload import envelope, task_data
from receiver.settings import RouteSettings
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.api_requests import ActionRequest, EmptyBody, NoQuery
from receiver.web.params import actor, read_json_body, read_query

FindSender = Callable[[str], Sender | None]
"""Returns a route's sender by the route's name."""

_ENDPOINT = "images/multi-image2image"
_IMAGE = {"index": 0, "url": "https://example.com/test.png"}
_MESSAGE = "Test event for this route: the task does not exist."


class RouteStateStore(Protocol):
    """Stores the state of routes."""

    async def route_states(self) -> Mapping[str, RouteState]:
        """Return the stored state of each route, by name."""
        ...


class RouteStates(Protocol):
    """Holds and releases routes."""

    async def hold(self, route: str, *, why: str, actor: str) -> RouteState:
        """Hold a route until an operator releases it."""
        ...

    async def release(self, route: str, *, why: str, actor: str) -> RouteState:
        """Release a route."""
        ...


class RouteApi:
    """Answers ``/api/routes``."""

    def __init__(
        self,
        routes: Sequence[RouteSettings],
        *,
        route_state_store: RouteStateStore,
        route_states: RouteStates,
        find_sender: FindSender,
        catalog: Catalog,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._routes = routes
        self._route_state_store = route_state_store
        self._route_states = route_states
        self._find_sender = find_sender
        self._catalog = catalog
        self._clock = clock
        self._ids = ids

    async def list(self, request: Request) -> Response:
        """List the configured routes in their order, then other routes that have pending deliveries or are held."""
        read_query(request, NoQuery)
        return serializers.json_response(Page(items=await self._all_routes(), next=None))

    async def hold(self, request: Request) -> Response:
        """Hold a route until it is released; its deliveries stay pending."""
        return await self._change(request, self._route_states.hold)

    async def release(self, request: Request) -> Response:
        """Release a route, whether an operator or the service held it."""
        return await self._change(request, self._route_states.release)

    async def _change(self, request: Request, change: Callable[..., Awaitable[RouteState]]) -> Response:
        read_query(request, NoQuery)
        body = await read_json_body(request, ActionRequest)
        name = request.path_params["name"]
        if not any(route.name == name for route in await self._all_routes()):
            raise _no_route(name)
        await change(name, why=body.why, actor=actor(request))
        (route,) = [route for route in await self._all_routes(include=name) if route.name == name]
        return serializers.json_response(route)

    async def _all_routes(self, *, include: str | None = None) -> Sequence[Route]:
        states = await self._route_state_store.route_states()
        backlog = {each.route: each for each in await self._catalog.backlog()}
        configured = [route.name for route in self._routes]
        held = {name for name, state in states.items() if state.is_held}
        others = ({*backlog, *held} | ({include} if include is not None else set())) - {*configured}
        return [
            *(serializers.route_json(route, states.get(route.name), backlog.get(route.name)) for route in self._routes),
            *(
                serializers.unconfigured_route_json(name, states.get(name), backlog.get(name))
                for name in sorted(others)
            ),
        ]

    async def test(self, request: Request) -> Response:
        """Send a sample event to a route once and return the outcome. Nothing is stored."""
        read_query(request, NoQuery)
        await read_json_body(request, EmptyBody)
        name = request.path_params["name"]
        sender = self._find_sender(name) if name in {route.name for route in self._routes} else None
        if sender is None:
            raise _no_route(name)
        delivery = DeliveryRequest(
            delivery_id=self._ids.new("dlv"), event=self._sample_event(), attempt=1, at=self._clock.now()
        )
        started_at = perf_counter()
        outcome = await sender.send(delivery)
        return serializers.json_response(
            serializers.outcome_json(outcome, duration=timedelta(seconds=perf_counter() - started_at))
        )

    def _sample_event(self) -> Event:
        """Return an event like a real one; its tag and its message mark it as a test."""
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
            source=Source.CALLBACK,
            verified=Verification.NONE,
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
            verified=Verification.NONE,
            created_at=now,
            task_id=task.id,
        )


def _no_route(name: str) -> NotFound:
    return NotFound(
        f"There is no route {name[:64]!r}.",
        remedy="List the routes with `kling-receiver routes list`. A new route needs a restart of the service.",
    )
