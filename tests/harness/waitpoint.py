"""A workflow service with waitpoints: the first request to a URL ends its wait, and every later one is refused."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.running_service import an_asgi_server
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send


@dataclass(slots=True)
class Waitpoints:
    """``requests`` has the target of each request as it was on the wire, ``outputs`` what ended each wait.

    ``before_answer`` runs after a wait has ended and before its request is answered.
    """

    url: str = ""
    requests: list[str] = field(default_factory=list)
    deliveries: list[str] = field(default_factory=list)
    outputs: dict[str, bytes] = field(default_factory=dict)
    before_answer: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End the wait at the request's target, or answer 409 as n8n does."""
        request = Request(scope, receive)
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        self.requests.append(target)
        self.deliveries.append(request.headers["kling-receiver-delivery"])
        is_first = target not in self.outputs
        self.outputs.setdefault(target, await request.body())
        self.before_answer()
        ended: Response = JSONResponse({"message": "The execution has finished already."}, 409)
        await (JSONResponse({"success": True}) if is_first else ended)(scope, receive, send)

    def output(self, target: str) -> Mapping[str, Any]:
        """Return what ended the wait at *target*."""
        output: dict[str, Any] = json.loads(self.outputs[target])
        return output


@asynccontextmanager
async def waitpoints() -> AsyncIterator[Waitpoints]:
    """Run such a service in this process."""
    service = Waitpoints()
    async with an_asgi_server(service) as url:
        service.url = url
        yield service
