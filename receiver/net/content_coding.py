"""Decodes a response body that a server compressed although we asked for ``identity``. Pure, and bounded."""

import zlib
from collections.abc import Callable, Mapping
from typing import Final

_GZIP: Final = 16 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS
_MAX_CODINGS: Final = 3
_MAX_MEMBERS: Final = 16  # each one copies the rest of the body


def decode(body: bytes, content_encoding: str, *, max_size: int) -> bytes | None:
    """Return the decoded *body*; None for an unknown coding, a broken body, or one that is larger than *max_size*.

    *content_encoding* is the header's value: the codings in the order in which the server applied them.
    """
    codings = [word.strip().lower() for word in content_encoding.split(",") if word.strip()]
    if len(codings) > _MAX_CODINGS:
        return None
    decoded: bytes | None = body
    for coding in reversed(codings):
        decoder = _DECODERS.get(coding)
        if decoder is None or decoded is None:
            return None
        decoded = decoder(decoded, max_size) if decoded else decoded  # an empty body is often declared as coded
    return decoded


def _identity(body: bytes, _max_size: int) -> bytes | None:
    return body


def _gunzip(body: bytes, max_size: int) -> bytes | None:
    decoded = b""
    for _ in range(_MAX_MEMBERS):  # a gzip file may have several members
        if not body:
            return decoded
        found = _inflate(body, _GZIP, max_size - len(decoded))
        if found is None:
            return None
        member, body = found
        decoded += member
    return None if body else decoded


def _deflate(body: bytes, max_size: int) -> bytes | None:
    """Decode ``deflate``: zlib's format as the standard says, or a raw stream as some servers send it."""
    found = _inflate(body, zlib.MAX_WBITS, max_size) or _inflate(body, _RAW, max_size)
    return None if found is None else found[0]


def _inflate(body: bytes, window: int, max_size: int) -> tuple[bytes, bytes] | None:
    """Return the first stream in *body*, decoded, and the bytes after it; None if it is broken or too large."""
    inflater = zlib.decompressobj(window)
    try:
        decoded = inflater.decompress(body, max_size + 1)
    except zlib.error:
        return None
    return (decoded, inflater.unused_data) if inflater.eof and len(decoded) <= max_size else None


_DECODERS: Mapping[str, Callable[[bytes, int], bytes | None]] = {
    "identity": _identity,
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
}
