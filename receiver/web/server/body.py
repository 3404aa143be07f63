"""Reads request bodies within size limits and a shared memory budget."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import TypeVar

from starlette.types import Message, Receive, Scope

from receiver.net.http_client import StreamedBody
from receiver.web.server.problems import RETRY_AFTER, Problem

T = TypeVar("T")

SMALL_BODY = 1024 * 1024
"""Bytes that any request may hold in memory without a reservation."""

MAX_JOB_BODY = 64 * 1024 * 1024
"""Maximum bytes of a job: several images of 10 MB each, in base64."""


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete."""


class BodyMemoryBudget:
    """Memory for large bodies that must be read completely, shared by all concurrent requests.

    Bodies of at most *small* bytes need no reservation.
    """

    def __init__(
        self,
        size: int = 4 * MAX_JOB_BODY,
        *,
        small: int = SMALL_BODY,
        wait_timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        self._free = size
        self._small = small
        self._wait_timeout = wait_timeout  # shorter than the listener's deadline for a request
        self._changed = asyncio.Condition()

    def needs_reservation(self, scope: Scope, *, limit: int) -> bool:
        """Return whether a request's body needs memory of the budget: small bodies, and those to be refused, do not."""
        return self._small < _declared_size(scope, default=limit) <= limit

    @asynccontextmanager
    async def reserve(self, scope: Scope, *, limit: int) -> AsyncIterator[None]:
        """Reserve memory for a request's body: its declared size, or *limit* bytes if it declares none.

        Raises ``Problem`` (503) if no memory becomes free within the timeout.
        """
        if not self.needs_reservation(scope, limit=limit):
            yield
            return
        size = _declared_size(scope, default=limit)
        async with self._changed:
            try:
                async with asyncio.timeout(self._wait_timeout.total_seconds()):
                    await self._changed.wait_for(lambda: self._free >= size)
            except TimeoutError:
                raise _no_memory() from None
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            async with self._changed:
                self._changed.notify_all()


async def stream_body(scope: Scope, receive: Receive, *, limit: int) -> bytes | StreamedBody:
    """Return a small body as bytes and a large one as a stream. Raises as ``read_body``, possibly while streaming."""
    check_head(scope, limit=limit)
    message, size = await receive(), _declared_size(scope, default=None)
    if not message.get("more_body", False) or (size is not None and size <= SMALL_BODY):
        return await _read_rest(message, receive, limit=limit)
    return StreamedBody(size=size, chunks=_chunks(message, receive, limit=limit))


async def read_body(scope: Scope, receive: Receive, *, limit: int, codings: Collection[str] = ()) -> bytes:
    """Read the whole body, of at most *limit* bytes. It stays compressed if its content coding is one of *codings*.

    Raises ``Problem`` (413) as soon as the declared or the real size exceeds the limit, ``Problem`` (415) for another
    content coding, and ``ClientDisconnected``.
    """
    check_head(scope, limit=limit, codings=codings)
    return await receive_body(receive, limit=limit)


async def receive_body(receive: Receive, *, limit: int) -> bytes:
    """Read the whole body of a request whose head was checked. Raises as ``read_body``."""
    return await _read_rest(await receive(), receive, limit=limit)


def check_head(scope: Scope, *, limit: int, codings: Collection[str] = ()) -> None:
    """Raise ``Problem`` (413 or 415) if the head alone shows that the body cannot be accepted."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise too_large(limit)
        if name == b"content-encoding" and value.strip().lower().decode("latin-1") not in ("", "identity", *codings):
            raise _unsupported_coding(codings)


async def _read_rest(message: Message, receive: Receive, *, limit: int) -> bytes:
    if message["type"] == "http.request" and not message.get("more_body", False):
        # Nearly every body arrives in one chunk, which needs no copying.
        whole: bytes = message.get("body", b"")
        if len(whole) > limit:
            raise too_large(limit)
        return whole
    read = bytearray()
    async for chunk in _chunks(message, receive, limit=limit):
        read += chunk
    return bytes(read)


async def _chunks(message: Message, receive: Receive, *, limit: int) -> AsyncIterator[bytes]:
    read = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        read += len(chunk)
        if read > limit:
            raise too_large(limit)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return
        message = await receive()


def _declared_size(scope: Scope, *, default: T) -> int | T:
    sizes = [int(value) for name, value in scope["headers"] if name == b"content-length"]
    return sizes[0] if sizes else default


def too_large(limit: int) -> Problem:
    """Return the problem (413) of a body over the limit."""
    detail = f"The body is larger than {limit} bytes."
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", detail)


def _no_memory() -> Problem:
    detail = "Too many large bodies are being processed, so there is no memory for this one. Send it again later."
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "crowded", detail, headers=RETRY_AFTER)


def _unsupported_coding(accepted: Collection[str]) -> Problem:
    others = f", or with one of {', '.join(accepted)}" if accepted else ""
    detail = f"Send the body uncompressed, without a content-encoding{others}."
    headers = {"accept-encoding": ", ".join([*accepted, "identity"])}
    return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content_encoding", detail, headers=headers)
