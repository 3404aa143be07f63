"""Loads the pages of the console for the first visitor: a service without visitors starts sooner and is smaller."""

import asyncio
from collections.abc import Sequence
from functools import cached_property

from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

from receiver.web.console.gate import Gate, is_browser_path
from receiver.web.console.services import ConsoleServices
from receiver.web.resources.routes import RouteApi


class LazyPages(BaseRoute):
    """The route of every page behind the login."""

    def __init__(self, gate: Gate, services: ConsoleServices, routes: RouteApi) -> None:
        self._gate = gate
        self._services = services
        self._routes = routes

    async def load(self) -> None:
        """Load the pages in a thread, so that no callback waits for them."""
        if "_router" not in vars(self):
            await asyncio.to_thread(lambda: self._router)

    @cached_property
    def routes(self) -> Sequence[Route]:
        """The routes of the pages."""
        from receiver.web.console.page_routes import page_routes  # noqa: PLC0415 -- only visitors need the pages

        return page_routes(self._gate, self._services, self._routes)

    @cached_property
    def _router(self) -> Router:
        return Router(self.routes, redirect_slashes=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every path of the console."""
        is_ours = scope["type"] == "http" and is_browser_path(scope["path"])
        return (Match.FULL if is_ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Load the pages if need be, and pass the request to its page."""
        await self.load()
        await self._router(scope, receive, send)
