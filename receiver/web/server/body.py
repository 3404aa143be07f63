"""Reads a request's body, and never more of it than is allowed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TypeVar

from starlette.types import Message, Receive, Scope

from receiver.net.http_client import Outgoing
from receiver.web.server.problems import TRY_AGAIN, Problem

T = TypeVar("T")

SMALL = 1024 * 1024
"""What any request may hold in memory."""

MAX_JOB = 64 * 1024 * 1024
"""What may be asked of Kling: several images of 10 MB each, in base64."""


class ClientGone(Exception):
    """The client went away before its request was whole; nobody is left to answer."""


class Room:
    """Memory for large bodies that must be held whole, shared by all requests at once."""

    def __init__(self, size: int = 4 * MAX_JOB, *, patience: timedelta = timedelta(seconds=20)) -> None:
        self._free = size
        self._patience = patience  # less than what a listener gives a request to arrive
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def of(self, scope: Scope, *, limit: int) -> AsyncIterator[None]:
        """Hold room for a request's body, of *limit* bytes where it does not say.

        Small ones always find some, and those that are too large to be read need none. Raises ``Problem`` (503) when
        none gets free for a while.
        """
        size = _declared(scope, otherwise=limit)
        if not SMALL < size <= limit:
            yield
            return
        async with self._changed:
            try:
                async with asyncio.timeout(self._patience.total_seconds()):
                    await self._changed.wait_for(lambda: self._free >= size)
            except TimeoutError:
                raise _crowded() from None
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            async with self._changed:
                self._changed.notify_all()


async def stream_body(scope: Scope, receive: Receive, *, limit: int) -> bytes | Outgoing:
    """Give the body, as it comes where it is large. Raises as ``read_body`` does, if need be while it is read."""
    message, size = await _first(scope, receive, limit=limit), _declared(scope, otherwise=None)
    if not message.get("more_body", False) or (size is not None and size <= SMALL):
        return await _rest(message, receive, limit=limit)
    return Outgoing(size=size, pieces=_pieces(message, receive, limit=limit))


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """Read the whole body, of at most *limit* bytes.

    Raises ``Problem`` (413) as soon as the declared or the real size passes the limit, ``Problem`` (415) for
    a compressed body, and ``ClientGone``.
    """
    return await _rest(await _first(scope, receive, limit=limit), receive, limit=limit)


async def _first(scope: Scope, receive: Receive, *, limit: int) -> Message:
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise _encoded()
    return await receive()


async def _rest(message: Message, receive: Receive, *, limit: int) -> bytes:
    if message["type"] == "http.request" and not message.get("more_body", False):
        # Nearly every request comes in one piece, which needs no copying.
        whole: bytes = message.get("body", b"")
        if len(whole) > limit:
            raise too_large(limit)
        return whole
    read = bytearray()
    async for piece in _pieces(message, receive, limit=limit):
        read += piece
    return bytes(read)


async def _pieces(message: Message, receive: Receive, *, limit: int) -> AsyncIterator[bytes]:
    read = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        read += len(piece)
        if read > limit:
            raise too_large(limit)
        if piece:
            yield piece
        if not message.get("more_body", False):
            return
        message = await receive()


def _declared(scope: Scope, *, otherwise: T) -> int | T:
    sizes = [int(value) for name, value in scope["headers"] if name == b"content-length"]
    return sizes[0] if sizes else otherwise


def too_large(limit: int) -> Problem:
    """Say how large a body may be."""
    detail = f"The body is larger than {limit} bytes."
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", detail)


def _crowded() -> Problem:
    detail = "Other large bodies are being sent on just now, and there is no room for this one. Send it again later."
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "crowded", detail, headers=TRY_AGAIN)


def _encoded() -> Problem:
    detail = "Send the body as it is, without a content-encoding."
    headers = {"accept-encoding": "identity"}
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content_encoding", detail, headers=headers)
