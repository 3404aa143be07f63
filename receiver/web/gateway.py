"""Kling's own API, at ``/kling/``: a client that speaks to us as if to Kling notices no difference.

What makes a task goes through the submitter, all else straight to Kling. Our own trouble is told in the shape that
Kling gives its own, so that a client's code for errors understands it.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver import errors
from receiver.kling import endpoints, protocol
from receiver.kling.client import Answer
from receiver.kling.endpoints import Endpoint
from receiver.web import problems, shown
from receiver.web.body import read_body
from receiver.web.problems import Problem

log = structlog.get_logger()

PREFIX = "/kling/"
MAX_BODY = 64 * 1024 * 1024
"""Several images of 10 MB each, in base64."""

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

    async def relay(self, endpoint: Endpoint, body: bytes) -> Answer:
        """Send a client's create to Kling with our callback URL in it."""
        ...


class Kling(Protocol):
    """Passes calls on to Kling."""

    async def forward(self, method: str, path: str, query: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Call Kling as the client would; *path* as it was quoted, without the slash before it."""
        ...


class Gateway:
    """The app at ``/kling/``."""

    def __init__(self, submitter: Submitter, kling: Kling) -> None:
        self._submitter = submitter
        self._kling = kling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Kling does."""
        try:
            response = await self._answer(scope, receive)
        except Problem as problem:
            response = as_kling_says(problem)
        except errors.ReceiverError as error:
            log.warning("gateway.failed", method=scope["method"], code=error.code, reason=error.message)
            response = as_kling_says(problems.of(error), task=_may_exist_as(error))
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = scope["raw_path"].decode("latin-1")
        if not path.startswith(PREFIX):
            raise problems.no_such_page()
        path = path.removeprefix(PREFIX)
        body = await read_body(scope, receive, limit=MAX_BODY)
        endpoint = endpoints.resolve(path) if scope["method"] == "POST" else None
        if endpoint is not None and (endpoint.is_listed or _is_object(body)):
            return _as_it_came(await self._submitter.relay(endpoint, body))
        query = scope["query_string"].decode("latin-1")
        headers = dict(Headers(scope=scope))
        return _as_it_came(await self._kling.forward(scope["method"], path, query, body, headers))


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
    return shown.answer(body, problem.status, problem.headers)


def _as_it_came(answer: Answer) -> Response:
    if answer.status not in _STATUSES:
        detail = f"Kling answered with the status {answer.status}, which is none."
        return as_kling_says(Problem(HTTPStatus.BAD_GATEWAY, "kling", detail))
    response = Response(answer.body, answer.status)
    for name, value in answer.headers.items():
        response.headers[name] = value
    return response


def _is_object(body: bytes) -> bool:
    """Tell whether a body can have a callback URL put in: what can not is not meant to make a task."""
    try:
        protocol.parse_object(body)
    except errors.Unreadable:
        return False
    return True


def _may_exist_as(error: errors.ReceiverError) -> str | None:
    return error.external_task_id if isinstance(error, errors.KlingUncertain) else None
