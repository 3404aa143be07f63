"""A fake service for tests of the command line, on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]

TOKEN = "the-admin-token"
TASK_ID = "tsk_one"


def make_task(**changes: object) -> Json:
    return {
        "id": TASK_ID,
        "state": "processing",
        "endpoint": "images/multi-image2image",
        "label": None,
        "tags": {},
        "kling_id": "8672",
        "external_task_id": TASK_ID,
        "message": "",
        "origin": "api",
        "created_at": "2026-11-22T10:00:00.000Z",
        "updated_at": "2026-11-22T10:00:01.000Z",
        "expires_at": None,
    } | changes


def make_event(**changes: object) -> Json:
    data = {
        "event_id": "evt_one",
        "status": "succeed",
        "message": "",
        "source": "callback",
        "verified": "api",
        "task": {"id": TASK_ID, "endpoint": "images/multi-image2image"},
        "result": {"images": [{"index": 0, "url": "https://cdn.example/0.png"}]},
        "assets": [],
        "kling": {},
    }
    return {"type": "task.succeed", "timestamp": "2026-11-22T10:00:00.123Z", "data": data | changes}


def make_delivery(**changes: object) -> Json:
    return {
        "id": "dlv_one",
        "event_id": "evt_one",
        "event_type": "task.succeed",
        "task_id": TASK_ID,
        "route": "publish",
        "status": "dead",
        "attempts": 2,
        "due_at": "2026-11-22T10:00:00.000Z",
        "created_at": "2026-11-22T10:00:00.000Z",
        "finished_at": "2026-11-22T11:00:00.000Z",
        "replay_of": None,
        "in_flight": False,
    } | changes


@dataclass
class FakeService:
    """Answers as set, and records requests."""

    port: int
    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    actors: list[str | None] = field(default_factory=list)
    streams: int = 0
    has_stream: bool = True
    _events: "asyncio.Queue[Json | None] | None" = None
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: object, *, status: int = 200) -> None:
        self.answers[path] = (status, body)

    def send_event(self, event: Json) -> None:
        """Send an event to the followers of the stream."""
        assert self._loop is not None
        assert self._events is not None
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/stream", self.stream),
                Route("/{path:path}", self.respond, methods=["GET", "POST"]),
            ]
        )

    async def respond(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "unauthorized", "A token is needed.")
        body = json.loads(await request.body() or b"null")
        self.actors.append(request.headers.get("kling-receiver-actor"))
        self.requests.append((request.method, str(request.url).removeprefix(self.url), body))
        if request.url.path not in self.answers:
            return problem(404, "not_found", "There is no such thing.")
        status, answer = self.answers[request.url.path]
        answer = answer() if callable(answer) else answer
        # Escaped like the service's JSON, so that any text can be sent.
        return Response(json.dumps(answer), status, media_type="application/json")

    async def stream(self, _request: Request) -> Response:
        if not self.has_stream:
            return problem(404, "not_found", "There is no stream.")
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self.streams += 1

        async def lines() -> AsyncIterator[str]:
            assert self._events is not None
            yield "retry: 2000\n: listening\n\n"
            while (event := await self._events.get()) is not None:
                yield f"id: {event['data']['event_id']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    def end_stream(self) -> None:
        if self._loop is not None and self._events is not None:
            self._loop.call_soon_threadsafe(self._events.put_nowait, None)


def problem(status: int, code: str, detail: str) -> Response:
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    return JSONResponse(body, status, media_type="application/problem+json")
