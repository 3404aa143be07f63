"""Puts the console together: its login, its pages and its static files."""

import asyncio
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from receiver.web.console.credentials import Credentials
from receiver.web.console.gate import Gate, public
from receiver.web.console.lazy_pages import LazyPages
from receiver.web.console.pages.login import LoginPages
from receiver.web.console.renderer import Renderer
from receiver.web.console.services import ConsoleServices
from receiver.web.console.sessions import LoginLinks, Sessions
from receiver.web.console.static_files import PREFIX, static_file
from receiver.web.resources.routes import RouteApi
from receiver.web.server.problems import Problem


class Console:
    """The console's routes, and its one-time links for ``kling-receiver console``."""

    def __init__(
        self,
        services: ConsoleServices,
        routes: RouteApi,
        credentials: Credentials,
    ) -> None:
        clock = services.clock
        sessions = Sessions(services.console.sessions, credentials, clock)
        self.links = LoginLinks(services.console.sessions, credentials, clock)
        self._renderer = Renderer(clock)
        self.gate = gate = Gate(sessions, self._renderer)
        login = LoginPages(sessions, self.links, credentials, self._renderer, load=self.load, clock=clock)
        self._pages = LazyPages(gate, services, routes)
        self.routes = [
            *login.routes(),
            public(f"{PREFIX}/{{digest}}/{{name:path}}", {"GET": static_file}),
            self._pages,
        ]

    async def load(self) -> None:
        """Load what every page needs, for a visitor who comes next."""
        await asyncio.gather(self._renderer.load(), self._pages.load())

    def error_response(self, scope: Scope, problem: Problem) -> Response:
        """Return an error as a page, for a visitor with the menu. A page with wrong filters is linked without them."""
        request = Request(scope)
        session = self.gate.session(request)
        has_filters = problem.status is HTTPStatus.BAD_REQUEST and request.method in ("GET", "HEAD")
        again = request.url.path if has_filters and request.url.query else None
        response = self._renderer.page(
            request,
            "error.html",
            title="The address has a wrong value" if again else problem.status.phrase,
            status=problem.status,
            visitor=session.visitor if session else None,
            problem=problem,
            again=again,
        )
        response.headers.update(problem.headers)
        return response
