"""What a connection is told that is turned away before an app can answer."""

from dataclasses import dataclass
from http import HTTPStatus

from receiver.web.server.problems import MEDIA_TYPE, Problem


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a connection ends. ``code`` is for machines, ``detail`` for people."""

    status: HTTPStatus
    code: str
    detail: str

    def problem(self) -> Problem:
        """Give it as the answer to a request."""
        return Problem(self.status, self.code, self.detail)

    def raw_response(self) -> bytes:
        """Write it as the last that is said on a connection."""
        body = self.problem().body()
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        return head.encode() + body


BAD_HTTP = Rejection(
    HTTPStatus.BAD_REQUEST,
    "bad_http",
    "This is not HTTP, or has more around its body than is taken: send no trailers and no long chunk extensions.",
)
HEAD_TOO_LARGE = Rejection(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    "The request's head is too large, or has too many fields.",
)
TOO_MANY_PIPELINED = Rejection(
    HTTPStatus.TOO_MANY_REQUESTS,
    "too_far_ahead",
    "Too many requests came ahead of the answers; wait for those.",
)
TOO_MANY_CONNECTIONS = Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", "Too many connections.")
TOO_SLOW = Rejection(HTTPStatus.REQUEST_TIMEOUT, "too_slow", "The request took too long to arrive.")
