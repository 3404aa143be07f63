"""What `kling-receiver doctor` needs from the running service: its process, and probes of the public URL."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.resources import Diagnostics, Probe
from receiver.domain.clock import iso
from receiver.web import serializers
from receiver.web.api_requests import EmptyBody, NoQuery
from receiver.web.params import read_json_body, read_query
from receiver.web.probes import ProbeRegistry

Diagnose = Callable[[], Awaitable[Diagnostics]]
"""Returns what the process knows about itself."""


class DiagnosticsApi:
    """Answers ``/api/diagnostics`` and ``/api/probes``."""

    def __init__(self, diagnose: Diagnose, probes: ProbeRegistry) -> None:
        self._diagnose = diagnose
        self._probes = probes

    async def show(self, request: Request) -> Response:
        """Show the process: versions, limits and readiness."""
        read_query(request, NoQuery)
        return serializers.json_response(await self._diagnose())

    async def register_probe(self, request: Request) -> Response:
        """Register a probe of the public URL."""
        read_query(request, NoQuery)
        await read_json_body(request, EmptyBody)
        probe = self._probes.register()
        return serializers.json_response(
            Probe(token=probe.token.reveal(), secret=probe.secret.reveal(), expires_at=iso(probe.expires_at)),
            HTTPStatus.CREATED,
        )
