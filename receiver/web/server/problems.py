"""Error responses as problem+json (RFC 9457), and the translation of errors into them."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from receiver.domain import errors
from receiver.domain.api_schema import resources

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"retry-after": "5"}

_STATUS_OF: Mapping[type[errors.ReceiverError], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.MalformedBody: HTTPStatus.BAD_REQUEST,
    errors.ConfigurationError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ServiceStopping: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CallLost: HTTPStatus.GATEWAY_TIMEOUT,
    errors.KlingUncertain: HTTPStatus.GATEWAY_TIMEOUT,
    errors.KlingError: HTTPStatus.BAD_GATEWAY,
}
"""The nearest ancestor counts. An error that is not listed is an internal error (500)."""


class Problem(Exception):
    """An error response to a request. ``code`` is for machines, ``detail`` for people."""

    def __init__(self, status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def definition(self) -> resources.Problem:
        """Return the problem's members."""
        return resources.Problem(
            type="about:blank",
            title=self.status.phrase,
            status=self.status.value,
            detail=self.detail,
            code=self.code,
        )

    def body(self) -> bytes:
        """Return the problem as JSON."""
        return json.dumps(self.definition().to_json()).encode()

    def response(self) -> Response:
        """Return the problem as a response."""
        headers = {"cache-control": "no-store", **self.headers}
        return Response(self.body(), self.status, headers=headers, media_type=MEDIA_TYPE)


def bad_request(detail: str) -> Problem:
    """Return the problem (400) of invalid input."""
    return Problem(HTTPStatus.BAD_REQUEST, errors.InvalidRequest.code, detail)


def not_found(hint: str = "") -> Problem:
    """Return the problem (404) of an unknown path; *hint* names the right one."""
    detail = f"Nothing is served at this path. {hint}".rstrip()
    return Problem(HTTPStatus.NOT_FOUND, errors.NotFound.code, detail)


def method_not_allowed(allow: str) -> Problem:
    """Return the problem (405) of a path that accepts only other methods."""
    detail = f"This path accepts only {allow}."
    return Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", detail, headers={"allow": allow})


def internal_error() -> Problem:
    """Return the problem (500) of an unexpected error. Only the log has the details."""
    detail = "Internal error. See the service's log for details."
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail)


def from_error(error: "Problem | errors.ReceiverError") -> Problem:
    """Translate an error of the service into a problem; return a problem unchanged."""
    if isinstance(error, Problem):
        return error
    for kind in type(error).__mro__:
        if (status := _STATUS_OF.get(kind)) is not None:
            headers = RETRY_AFTER if status is HTTPStatus.SERVICE_UNAVAILABLE else None
            return Problem(status, error.code, str(error), headers=headers)
    return internal_error()


def from_http_exception(error: HTTPException) -> Problem:
    """Translate the router's errors for unknown paths and methods into problems."""
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.NOT_FOUND:
        return not_found()
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        return method_not_allowed((error.headers or {}).get("Allow", ""))
    return Problem(status, status.name.lower(), error.detail, headers=error.headers)


async def http_exception_response(_request: Request, error: Exception) -> Response:
    """Return the router's error as a response. This is a Starlette exception handler."""
    if not isinstance(error, HTTPException):
        raise error
    return from_http_exception(error).response()


async def send_raw(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a response without building a Response object, for hot paths."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
