"""What is said when a request cannot be done: problem+json (RFC 9457), the same everywhere."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from receiver.domain import errors

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"retry-after": "5"}

_STATUS_OF: Mapping[type[errors.ReceiverError], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.MalformedBody: HTTPStatus.BAD_REQUEST,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.KlingUncertain: HTTPStatus.GATEWAY_TIMEOUT,
    errors.KlingError: HTTPStatus.BAD_GATEWAY,
}
"""The nearest ancestor counts; an error of ours that is not here is our own fault."""


class Problem(Exception):
    """A request that gets an error for an answer. ``code`` is for machines, ``detail`` for people."""

    def __init__(self, status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Write the problem as JSON."""
        return json.dumps(
            {
                "type": "about:blank",
                "title": self.status.phrase,
                "status": self.status.value,
                "detail": self.detail,
                "code": self.code,
            }
        ).encode()

    def response(self) -> Response:
        """Give the answer that tells of the problem."""
        headers = {"cache-control": "no-store", **self.headers}
        return Response(self.body(), self.status, headers=headers, media_type=MEDIA_TYPE)


def bad_request(detail: str) -> Problem:
    """Say what is wrong with a client's input."""
    return Problem(HTTPStatus.BAD_REQUEST, errors.InvalidRequest.code, detail)


def not_found() -> Problem:
    """Say that nothing is served at an address."""
    return Problem(HTTPStatus.NOT_FOUND, errors.NotFound.code, "There is nothing here.")


def method_not_allowed(allow: str) -> Problem:
    """Say which methods an address takes."""
    detail = f"This address takes {allow}."
    return Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", detail, headers={"allow": allow})


def internal_error() -> Problem:
    """Say that the fault is ours, and nothing more: what happened is in the log."""
    detail = "Something went wrong on this side; the log has the details."
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)


def from_error(error: errors.ReceiverError) -> Problem:
    """Translate an error of ours into what the client is told."""
    for kind in type(error).__mro__:
        if (status := _STATUS_OF.get(kind)) is not None:
            headers = RETRY_AFTER if status is HTTPStatus.SERVICE_UNAVAILABLE else None
            return Problem(status, error.code, str(error), headers=headers)
    return internal_error()


def from_http_exception(error: HTTPException) -> Problem:
    """Translate what the router says of addresses and methods that it does not know."""
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.NOT_FOUND:
        return not_found()
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        return method_not_allowed((error.headers or {}).get("Allow", ""))
    return Problem(status, status.name.lower(), error.detail, headers=error.headers)


async def problem_response(_request: Request, error: Exception) -> Response:
    """Answer a raised :class:`Problem`, an error of ours, or the router's word, as problem+json."""
    match error:
        case Problem():
            return error.response()
        case errors.ReceiverError():
            return from_error(error).response()
        case HTTPException():
            return from_http_exception(error).response()
    raise error


async def send_raw(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Answer with ready-made bytes, for the paths where each microsecond counts."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
