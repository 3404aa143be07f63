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
from receiver.kling.client import KlingResponse, PassThrough, ResponseWriter
from receiver.kling.endpoints import Endpoint
from receiver.net.http_client import StreamedBody
from receiver.submission.request import TaskMetadata
from receiver.web import serializers
from receiver.web.params import task_metadata
from receiver.web.server import problems
from receiver.web.server.body import MAX_JOB_BODY, BodyMemoryBudget, read_body, stream_body
from receiver.web.server.problems import Problem

log = structlog.get_logger()

PREFIX = "/kling/"
_MAX_BUFFERED = 256 * 1024
"""How much of an answer is held until it is whole; should it break off by then, that can still be said."""

_KLING_CODES: Mapping[HTTPStatus, int] = {
    HTTPStatus.UNAUTHORIZED: 1000,
    HTTPStatus.NOT_FOUND: 1202,
    HTTPStatus.METHOD_NOT_ALLOWED: 1202,
    HTTPStatus.INTERNAL_SERVER_ERROR: 5000,
    HTTPStatus.BAD_GATEWAY: 5001,
    HTTPStatus.SERVICE_UNAVAILABLE: 5001,
    HTTPStatus.GATEWAY_TIMEOUT: 5002,
}
_BAD_PARAMETERS = 1201
_VALID_STATUSES = range(200, 600)


class Submitter(Protocol):
    """Makes tasks for the gateway's clients."""

    async def submit_now(
        self, endpoint: Endpoint, body: bytes, metadata: TaskMetadata, pass_through: PassThrough
    ) -> KlingResponse:
        """Send a client's create to Kling with our callback URL in it, and with what it has beside its body."""
        ...


class ForwardApi(Protocol):
    """Passes calls on to Kling."""

    async def forward(
        self,
        method: str,
        path: str,
        content: bytes | StreamedBody,
        pass_through: PassThrough,
        *,
        write_response: ResponseWriter,
    ) -> None:
        """Call Kling as the client would, and hand on what it answers.

        *path* is as it was quoted, without the slash before it.
        """
        ...


class Gateway:
    """The app at ``/kling/``."""

    def __init__(self, submitter: Submitter, kling: ForwardApi, body_memory: BodyMemoryBudget) -> None:
        self._submitter = submitter
        self._kling = kling
        self._body_memory = body_memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Kling does."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._handle(scope, receive, watched)
        except Problem as problem:
            response = kling_error(problem)
        except errors.ReceiverError as error:
            log.warning("gateway.failed", method=scope["method"], code=error.code, reason=error.message)
            if begun:
                return  # the server then breaks the connection off, as Kling's was
            response = kling_error(problems.from_error(error), task=_uncertain_task_id(error))
        else:
            return
        await response(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        if not path.startswith(PREFIX):
            raise problems.not_found()
        path = path.removeprefix(PREFIX)
        endpoint = endpoints.resolve(path) if scope["method"] == "POST" else None
        if endpoint is None:
            await self._forward(path, await stream_body(scope, receive, limit=MAX_JOB_BODY), scope, receive, send)
            return
        async with self._body_memory.reserve(scope, limit=MAX_JOB_BODY):
            body = await read_body(scope, receive, limit=MAX_JOB_BODY)
            if endpoint.is_listed or _is_object(body):
                answer = await self._submitter.submit_now(
                    endpoint, body, task_metadata(Headers(scope=scope)), _pass_through(scope)
                )
                await _passthrough(answer.status, answer.headers, answer.body)(scope, receive, send)
            else:
                await self._forward(path, body, scope, receive, send)

    async def _forward(
        self, path: str, content: bytes | StreamedBody, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send a call straight on to Kling, and its answer back as it comes."""

        async def give(status: int, headers: Mapping[str, str], pieces: AsyncIterator[bytes]) -> None:
            begin = bytearray()
            async for piece in pieces:
                begin += piece
                if len(begin) > _MAX_BUFFERED:
                    chain = _prepend(bytes(begin), pieces)
                    await StreamingResponse(chain, status, headers=headers)(scope, receive, send)
                    return
            await _passthrough(status, headers, bytes(begin))(scope, receive, send)

        await self._kling.forward(scope["method"], path, content, _pass_through(scope), write_response=give)


def is_gateway_path(path: str) -> bool:
    """Whether a path is one of Kling's, so that its client expects Kling's words."""
    return path.startswith(PREFIX)


def kling_error(problem: Problem, *, task: str | None = None) -> Response:
    """Tell of a problem in Kling's shape. *task* is the external id of a task that may exist all the same."""
    body: dict[str, object] = {
        "code": _KLING_CODES.get(problem.status, _BAD_PARAMETERS),
        "message": problem.detail,
        "request_id": "",
    }
    if task is not None:
        body["data"] = {"external_task_id": task}
    return serializers.json_response(body, problem.status, problem.headers)


def _passthrough(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    if status not in _VALID_STATUSES:
        detail = f"Kling answered with the status {status}, which is none."
        return kling_error(Problem(HTTPStatus.BAD_GATEWAY, "kling", detail))
    response = Response(body, status)
    for name, value in headers.items():
        response.headers[name] = value
    return response


async def _prepend(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in chunks:
        yield piece
        await asyncio.sleep(0)  # else a peer that always has more would keep us from seeing that nobody listens


def _pass_through(scope: Scope) -> PassThrough:
    return PassThrough(query=scope["query_string"].decode("latin-1"), headers=dict(Headers(scope=scope)))


def _is_object(body: bytes) -> bool:
    """Tell whether a body can have a callback URL put in: what can not is not meant to make a task."""
    try:
        protocol.parse_object(body)
    except errors.MalformedBody:
        return False
    return True


def _uncertain_task_id(error: errors.ReceiverError) -> str | None:
    return error.external_task_id if isinstance(error, errors.KlingUncertain) else None
