"""Reads a request's body, and never more of it than is allowed."""

from http import HTTPStatus

from starlette.types import Receive, Scope

from receiver.web.problems import Problem


class ClientGone(Exception):
    """The client went away before its request was whole; nobody is left to answer."""


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """Read the whole body, of at most *limit* bytes.

    Raises ``Problem`` (413) as soon as the declared or the real size passes the limit, ``Problem`` (415) for
    a compressed body, and ``ClientGone``.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise _encoded()
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        # Nearly every request comes in one piece, which needs no copying.
        whole: bytes = message.get("body", b"")
        if len(whole) > limit:
            raise too_large(limit)
        return whole
    read = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        read += message.get("body", b"")
        if len(read) > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return bytes(read)
        message = await receive()


def too_large(limit: int) -> Problem:
    """Say how large a body may be."""
    detail = f"The body is larger than {limit} bytes."
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", detail)


def _encoded() -> Problem:
    detail = "Send the body as it is, without a content-encoding."
    headers = {"accept-encoding": "identity"}
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content_encoding", detail, headers=headers)
