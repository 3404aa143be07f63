"""One-time links to the console over HTTP."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.console import ConsoleLink
from receiver.domain.clock import iso
from receiver.domain.console_sessions import Role, Visitor
from receiver.web import serializers
from receiver.web.api_requests import EmptyBody, NoQuery
from receiver.web.console.gate import LOGIN
from receiver.web.console.sessions import LoginLinks
from receiver.web.params import actor, read_json_body, read_query


class ConsoleApi:
    """Answers ``/api/console``."""

    def __init__(self, links: LoginLinks, *, load_pages: Callable[[], Awaitable[None]]) -> None:
        """*load_pages* loads what the console's pages need, because a browser opens them next."""
        self._links = links
        self._load_pages = load_pages

    async def create_link(self, request: Request) -> Response:
        """Create a link that logs a browser in, under the name of the acting user."""
        read_query(request, NoQuery)
        await read_json_body(request, EmptyBody)
        await self._load_pages()
        secret, expires_at = await self._links.create(Visitor(role=Role.ADMIN, name=actor(request)))
        return serializers.json_response(
            ConsoleLink(path=f"{LOGIN}/{secret}", expires_at=iso(expires_at)), HTTPStatus.CREATED
        )
