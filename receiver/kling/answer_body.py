"""Makes an answer's body readable and safe to keep: decoded, and without our keys."""

from collections.abc import AsyncIterator

from msgspec.structs import replace

from receiver.domain.redaction import Redactor
from receiver.net.content_coding import decode
from receiver.net.http_client import HttpResponse

MAX_BODY = 16 * 1024 * 1024
"""The most bytes of an answer, coded or decoded: a page of 500 tasks with room to spare."""

_MAX_HEAD = 256 * 1024
_LENGTH_AND_CODING = ("content-length", "content-encoding")


def clean(reply: HttpResponse, redactor: Redactor) -> HttpResponse:
    """Return *reply* with a decoded body in which no server has quoted a key of ours.

    A body that cannot be decoded is returned as it came, with its ``content-encoding``.
    """
    coding = reply.headers.get("content-encoding", "")
    decoded = decode(reply.body, coding, max_size=MAX_BODY) if coding and not reply.truncated else reply.body
    body = redactor.body(reply.body if decoded is None else decoded)
    headers = {name: redactor.values(value) for name, value in reply.headers.items()}
    if body != reply.body:
        # a coding that was not decoded must stay named
        dropped = ("content-length",) if decoded is None else _LENGTH_AND_CODING
        headers = {name: value for name, value in headers.items() if name not in dropped}
    return replace(reply, headers=headers, body=body)


async def read_head(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Return the first 256 KiB of a streamed answer, and whether they are all of it.

    A larger answer is a file, not a refusal, so it is passed on as it comes.
    """
    head = bytearray()
    async for chunk in chunks:
        head += chunk
        if len(head) > _MAX_HEAD:
            return bytes(head), False
    return bytes(head), True


async def chunks_of(head: bytes, rest: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """Yield *head*, then *rest*."""
    yield head
    if rest is not None:
        async for chunk in rest:
            yield chunk
