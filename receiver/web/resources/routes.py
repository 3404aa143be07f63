"""Routes over HTTP: their state, hold and release."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.delivery.senders.sender import Sender
from receiver.domain.api_schema.json_object import Page
from receiver.domain.api_schema.resources import Route
from receiver.domain.errors import NotFound
from receiver.domain.model import RouteState
from receiver.settings import RouteSettings
from receiver.store.interfaces import Catalog
from receiver.web import serializers
from receiver.web.api_requests import ActionRequest, NoQuery
from receiver.web.params import actor, read_json_body, read_query

FindSender = Callable[[str], Sender | None]
"""Returns a route's sender by the route's name."""


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
        catalog: Catalog,
    ) -> None:
        self._routes = routes
        self._route_state_store = route_state_store
        self._route_states = route_states
        self._catalog = catalog

    async def list(self, request: Request) -> Response:
        """List the configured routes in their order, then other routes that have pending deliveries or are held."""
        read_query(request, NoQuery)
        return serializers.json_response(Page(items=await self.all_routes(), next=None))

    async def hold(self, request: Request) -> Response:
        """Hold a route until it is released; its deliveries stay pending."""
        return await self._change(request, self._route_states.hold)

    async def release(self, request: Request) -> Response:
        """Release a route, whether an operator or the service held it."""
        return await self._change(request, self._route_states.release)

    async def _change(self, request: Request, change: Callable[..., Awaitable[RouteState]]) -> Response:
        read_query(request, NoQuery)
        body = await read_json_body(request, ActionRequest)
        route = await self.change(request.path_params["name"], change, why=body.why, actor=actor(request))
        return serializers.json_response(route)

    async def change(self, name: str, change: Callable[..., Awaitable[RouteState]], *, why: str, actor: str) -> Route:
        """Hold or release a route, and return it. Raises NotFound."""
        if not any(route.name == name for route in await self.all_routes()):
            raise no_route(name)
        await change(name, why=why, actor=actor)
        (route,) = [route for route in await self.all_routes(include=name) if route.name == name]
        return route

    async def all_routes(self, *, include: str | None = None) -> Sequence[Route]:
        """Return the configured routes in their order, then others with pending deliveries or a hold, and *include*."""
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


def no_route(name: str) -> NotFound:
    """Return the error of an unknown route."""
    return NotFound(
        f"There is no route {name[:64]!r}.",
        remedy="List the routes with `kling-receiver routes list`. A new route needs `kling-receiver config reload`.",
    )
