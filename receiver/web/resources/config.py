"""The configuration of the running service: what a reload changes, and the reload itself."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.config import ConfigChanges
from receiver.web import serializers
from receiver.web.api_requests import EmptyBody, NoQuery
from receiver.web.params import actor, read_json_body, read_query


class Reloads(Protocol):
    """Reloads the configuration."""

    async def reload(self, *, actor: str) -> ConfigChanges:
        """Apply what can change. Raises ConfigurationError; nothing has changed then."""
        ...

    async def preview(self) -> ConfigChanges:
        """Return what a reload would change. Raises ConfigurationError."""
        ...


class ConfigApi:
    """Answers ``/api/config/...``."""

    def __init__(self, reloads: Reloads) -> None:
        self._reloads = reloads

    async def diff(self, request: Request) -> Response:
        """Show what a reload would change."""
        read_query(request, NoQuery)
        return serializers.json_response(await self._reloads.preview())

    async def reload(self, request: Request) -> Response:
        """Read the configuration again and apply what can change."""
        read_query(request, NoQuery)
        await read_json_body(request, EmptyBody)
        return serializers.json_response(await self._reloads.reload(actor=actor(request)))
