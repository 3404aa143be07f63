"""Kling's own API at ``/kling/``: a client written for Kling works here unchanged.

Creates go through the submitter; every other call goes straight to Kling. The body belongs to Kling, so a client sends
a task's label, tags and batch in headers. Our errors have the shape of Kling's errors, so that the client's
error handling understands them.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.domain import errors
from receiver.kling import endpoints, protocol
from receiver.kling.client import KlingResponse, ResponseWriter
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import PassThrough
from receiver.net.http_client import StreamedBody
from receiver.submission.request import Caller, TaskMetadata
from receiver.web import serializers
from receiver.web.params import ACTOR_HEADER, task_metadata
from receiver.web.server import problems
from receiver.web.server.body import MAX_JOB_BODY, BodyMemoryBudget, read_body, stream_body
from receiver.web.server.httptools_connection import SENDING_ENDED
from receiver.web.server.listener import STOPPING
from receiver.web.server.problems import Problem

log = structlog.get_logger()

PREFIX = "/kling/"
_MAX_BUFFERED = 256 * 1024
"""Bytes of a response that are buffered. If Kling's response breaks off within them, the client still gets an error."""

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
_AMBIGUOUS = re.compile(r"%2e|%2f|%5c|[;\\]", re.IGNORECASE)
"""What servers read differently: one may see another path than we do, and so another call with our key."""
_MAX_KEY = 256
_VALID_STATUSES = range(200, 600)


class GatewayCreates(Protocol):
    """Creates tasks for the gateway's clients."""

    async def submit_now(
        self, endpoint: Endpoint, body: bytes, metadata: TaskMetadata, pass_through: PassThrough, caller: Caller
    ) -> KlingResponse:
        """Send a client's create to Kling with our callback URL added, and with the client's query and headers.

        A repeated create of *caller* gets the first one's answer.
        """
        ...


class ForwardApi(Protocol):
    """Forwards calls to Kling."""

    async def forward(
        self,
        method: str,
        path: str,
        content: bytes | StreamedBody,
        pass_through: PassThrough,
        *,
        write_response: ResponseWriter,
    ) -> None:
        """Call Kling as the client would, and pass its response to *write_response*.

        *path* is still percent-encoded and has no leading slash.
        """
        ...


class Gateway:
    """The app at ``/kling/``."""

    def __init__(self, creates: GatewayCreates, kling: ForwardApi, body_memory: BodyMemoryBudget) -> None:
        self._creates = creates
        self._kling = kling
        self._body_memory = body_memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. The error boundary turns errors into responses."""
        try:
            await self._handle(scope, receive, send)
        except errors.ReceiverError as error:
            log.warning("gateway.failed", method=scope["method"], code=error.code, reason=error.message)
            raise

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        if not path.startswith(PREFIX):
            raise problems.not_found()
        path = path.removeprefix(PREFIX)
        if found := _AMBIGUOUS.search(path):
            raise problems.bad_request(f"The path must not contain {found[0]!r}. Use Kling's path as documented.")
        endpoint = endpoints.resolve(path) if scope["method"] == "POST" else None
        if endpoint is None:
            await self._forward(path, await stream_body(scope, receive, limit=MAX_JOB_BODY), scope, receive, send)
            return
        async with self._body_memory.reserve(scope, limit=MAX_JOB_BODY):
            body = await read_body(scope, receive, limit=MAX_JOB_BODY)
            if endpoint.is_listed or _is_object(body):
                response = await self._create(endpoint, body, scope, receive)
                await _passthrough(response.status, response.headers, response.body)(scope, receive, send)
            else:
                await self._forward(path, body, scope, receive, send)

    async def _create(self, endpoint: Endpoint, body: bytes, scope: Scope, receive: Receive) -> KlingResponse:
        headers = Headers(scope=scope)
        metadata, pass_through = task_metadata(headers), _pass_through(scope)
        async with _disconnect_watch(scope, receive) as has_left:
            caller = Caller(
                client=_client_of(scope, headers),
                key=_idempotency_key(headers),
                has_left=has_left,
                is_stopping=lambda: STOPPING in scope and scope[STOPPING].is_set(),
            )
            try:
                return await self._creates.submit_now(endpoint, body, metadata, pass_through, caller)
            except errors.KeyReused as error:
                raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.code, str(error)) from error

    async def _forward(
        self, path: str, content: bytes | StreamedBody, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Forward a call to Kling and stream the response back."""

        async def write(status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes]) -> None:
            buffered = bytearray()
            async for chunk in chunks:
                buffered += chunk
                if len(buffered) > _MAX_BUFFERED:
                    content = _prepend(bytes(buffered), chunks)
                    await StreamingResponse(content, status, headers=headers)(scope, receive, send)
                    return
            await _passthrough(status, headers, bytes(buffered))(scope, receive, send)

        await self._kling.forward(scope["method"], path, content, _pass_through(scope), write_response=write)


def is_gateway_path(path: str) -> bool:
    """Return whether a path belongs to the gateway, so that its client expects Kling's error shape."""
    return path.startswith(PREFIX)


def error_response(error: Problem | errors.ReceiverError) -> Response:
    """Render an error in Kling's error shape. It names a task that may exist nevertheless."""
    task = error.external_task_id if isinstance(error, errors.KlingUncertain) else None
    return kling_error(problems.from_error(error), task=task)


def kling_error(problem: Problem, *, task: str | None = None) -> Response:
    """Render a problem in Kling's error shape. *task* is the external ID of a task that may exist nevertheless."""
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
        detail = f"Kling answered with an invalid HTTP status: {status}."
        return kling_error(Problem(HTTPStatus.BAD_GATEWAY, "kling", detail))
    return Response(body, status, headers=headers)


async def _prepend(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)  # a fast sender would otherwise keep us from noticing that the client disconnected


def _pass_through(scope: Scope) -> PassThrough:
    return PassThrough(query=scope["query_string"].decode("latin-1"), headers=dict(Headers(scope=scope)))


@contextlib.asynccontextmanager
async def _disconnect_watch(scope: Scope, receive: Receive) -> AsyncIterator[Callable[[], bool]]:
    """Watch a client whose request has been read. Yield a function that returns whether it has left.

    A client that only closed its sending side is answered, but it counts as one that has left.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.create_task(watch())
    try:
        yield lambda: watching.done() or SENDING_ENDED in scope
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _client_of(scope: Scope, headers: Headers) -> str:
    """Return a name for the client: its address and a digest of its credentials, with the name of a named token."""
    address = (scope.get("client") or ("", 0))[0]
    credentials = headers.get("authorization", "") + headers.get(ACTOR_HEADER, "")
    return f"{address} {hashlib.sha256(credentials.encode()).hexdigest()}"


def _idempotency_key(headers: Headers) -> str | None:
    """Return the client's idempotency key, or None."""
    key = ",".join(headers.getlist("idempotency-key")).strip()
    if len(key) > _MAX_KEY or not key.isprintable():
        raise problems.bad_request(f"The header Idempotency-Key must be at most {_MAX_KEY} printable characters.")
    return key or None


def _is_object(body: bytes) -> bool:
    """Return whether a body is a JSON object, so that a callback URL can be added. Any other body creates no task."""
    try:
        protocol.parse_object(body)
    except errors.MalformedBody:
        return False
    return True
