"""Responses to requests that are rejected before they reach an app."""

from functools import lru_cache
from http import HTTPStatus

import msgspec

from receiver.web.server.problems import MEDIA_TYPE, Problem


class Rejection(msgspec.Struct, frozen=True):
    """Why a connection is closed. ``code`` is for machines, ``detail`` for people."""

    status: HTTPStatus
    code: str
    detail: str

    def problem(self) -> Problem:
        """Return the problem with which an app would answer."""
        return Problem(self.status, self.code, self.detail)

    def raw_response(self) -> bytes:
        """Return the complete HTTP response, to be sent before the connection is closed."""
        return _raw_response(self)


@lru_cache(maxsize=16)  # a flood of connections gets the same few responses
def _raw_response(rejection: Rejection) -> bytes:
    body = rejection.problem().body()
    head = (
        f"HTTP/1.1 {rejection.status.value} {rejection.status.phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


BAD_HTTP = Rejection(
    HTTPStatus.BAD_REQUEST,
    "bad_http",
    "This is not valid HTTP, or it has trailers or long chunk extensions, which are not accepted.",
)
HEAD_TOO_LARGE = Rejection(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    "The request's head is too large or has too many header fields.",
)
TOO_MANY_PIPELINED = Rejection(
    HTTPStatus.TOO_MANY_REQUESTS,
    "too_far_ahead",
    "Too many pipelined requests. Wait for the responses to the earlier ones.",
)
TOO_MANY_CONNECTIONS = Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections", "Too many connections.")
TOO_SLOW = Rejection(HTTPStatus.REQUEST_TIMEOUT, "too_slow", "The request took too long to arrive.")
TOO_MANY_PIECES = Rejection(
    HTTPStatus.BAD_REQUEST,
    "too_many_pieces",
    "The body arrives in too many tiny pieces. Send it in chunks of at least 64 bytes.",
)
ANSWERED = Rejection(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", "The request was answered before its body ended."
)
BAD_VERSION = Rejection(
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    "http_version",
    "This listener supports only HTTP/1.1 and HTTP/1.0. Let the client or proxy use HTTP/1.1.",
)
MISDIRECTED = Rejection(
    HTTPStatus.MISDIRECTED_REQUEST,
    "misdirected",
    "The request target names another host than the Host header. This service is not a proxy.",
)
