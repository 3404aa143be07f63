"""Kling's own API, at ``/kling/``: a client that speaks to us as if to Kling notices no difference.

What makes a task goes through the submitter, all else straight to Kling. What the client tells us alone, a label say,
stands in headers, for the body is Kling's. Our own trouble is told in the shape that
Kling gives its own, so that a client's code for errors understands it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from receiver.domain import errors
from receiver.kling import endpoints, protocol
from receiver.kling.client import Answer, Beside, Give
from receiver.kling.endpoints import Endpoint
from receiver.net.http_client import Outgoing
from receiver.submission.request import Marks
from receiver.web import serializers
from receiver.web.params import marks
from receiver.web.server import problems
from receiver.web.server.body import MAX_JOB, Room, read_body, stream_body
from receiver.web.server.problems import Problem

log = structlog.get_logger()

PREFIX = "/kling/"
_AT_ONCE = 256 * 1024
"""How much of an answer is held until it is whole; should it break off by then, that can still be said."""

_CODES: Mapping[HTTPStatus, int] = {
    HTTPStatus.UNAUTHORIZED: 1000,
    HTTPStatus.NOT_FOUND: 1202,
    HTTPStatus.METHOD_NOT_ALLOWED: 1202,
    HTTPStatus.INTERNAL_SERVER_ERROR: 5000,
    HTTPStatus.BAD_GATEWAY: 5001,
    HTTPStatus.SERVICE_UNAVAILABLE: 5001,
    HTTPStatus.GATEWAY_TIMEOUT: 5002,
}
_BAD_PARAMETERS = 1201
_STATUSES = range(200, 600)


class Submitter(Protocol):
    """Makes tasks for the gateway's clients."""

    async def relay(self, endpoint: Endpoint, body: bytes, marks: Marks, beside: Beside) -> Answer:
        """Send a client's create to Kling with our callback URL in it, and with what it has beside its body."""
        ...


class Kling(Protocol):
    """Passes calls on to Kling."""

    async def forward(self, method: str, path: str, content: bytes | Outgoing, beside: Beside, *, give: Give) -> None:
        """Call Kling as the client would, and hand on what it answers.

        *path* is as it was quoted, without the slash before it.
        """
        ...


class Gateway:
    """The app at ``/kling/``."""

    def __init__(self, submitter: Submitter, kling: Kling, room: Room) -> None:
        self._submitter = submitter
        self._kling = kling
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Kling does."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._answer(scope, receive, watched)
        except Problem as problem:
            response = as_kling_says(problem)
        except errors.ReceiverError as error:
            log.warning("gateway.failed", method=scope["method"], code=error.code, reason=error.message)
            if begun:
                return  # the server then breaks the connection off, as Kling's was
            response = as_kling_says(problems.of(error), task=_may_exist_as(error))
        else:
            return
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        if not path.startswith(PREFIX):
            raise problems.no_such_page()
        path = path.removeprefix(PREFIX)
        endpoint = endpoints.resolve(path) if scope["method"] == "POST" else None
        if endpoint is None:
            await self._pass_on(path, await stream_body(scope, receive, limit=MAX_JOB), scope, receive, send)
            return
        async with self._room.of(scope, limit=MAX_JOB):
            body = await read_body(scope, receive, limit=MAX_JOB)
            if endpoint.is_listed or _is_object(body):
                answer = await self._submitter.relay(endpoint, body, marks(Headers(scope=scope)), _beside(scope))
                await _as_it_came(answer.status, answer.headers, answer.body)(scope, receive, send)
            else:
                await self._pass_on(path, body, scope, receive, send)

    async def _pass_on(self, path: str, content: bytes | Outgoing, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a call straight on to Kling, and its answer back as it comes."""

        async def give(status: int, headers: Mapping[str, str], pieces: AsyncIterator[bytes]) -> None:
            begin = bytearray()
            async for piece in pieces:
                begin += piece
                if len(begin) > _AT_ONCE:
                    chain = _chained(bytes(begin), pieces)
                    await StreamingResponse(chain, status, headers=headers)(scope, receive, send)
                    return
            await _as_it_came(status, headers, bytes(begin))(scope, receive, send)

        await self._kling.forward(scope["method"], path, content, _beside(scope), give=give)


def is_for_kling(path: str) -> bool:
    """Whether a path is one of Kling's, so that its client expects Kling's words."""
    return path.startswith(PREFIX)


def as_kling_says(problem: Problem, *, task: str | None = None) -> Response:
    """Tell of a problem in Kling's shape. *task* is the external id of a task that may exist all the same."""
    body: dict[str, object] = {
        "code": _CODES.get(problem.status, _BAD_PARAMETERS),
        "message": problem.detail,
        "request_id": "",
    }
    if task is not None:
        body["data"] = {"external_task_id": task}
    return serializers.answer(body, problem.status, problem.headers)


def _as_it_came(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    if status not in _STATUSES:
        detail = f"Kling answered with the status {status}, which is none."
        return as_kling_says(Problem(HTTPStatus.BAD_GATEWAY, "kling", detail))
    response = Response(body, status)
    for name, value in headers.items():
        response.headers[name] = value
    return response


async def _chained(begin: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for piece in pieces:
        yield piece
        await asyncio.sleep(0)  # else a peer that always has more would keep us from seeing that nobody listens


def _beside(scope: Scope) -> Beside:
    return Beside(query=scope["query_string"].decode("latin-1"), headers=dict(Headers(scope=scope)))


def _is_object(body: bytes) -> bool:
    """Tell whether a body can have a callback URL put in: what can not is not meant to make a task."""
    try:
        protocol.parse_object(body)
    except errors.Unreadable:
        return False
    return True


def _may_exist_as(error: errors.ReceiverError) -> str | None:
    return error.external_task_id if isinstance(error, errors.KlingUncertain) else None
