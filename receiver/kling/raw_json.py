"""Edits JSON as text: unchanged parts stay exactly as the client wrote them. Pure.

Parsing a number and writing it again may change it (``1E3``, twenty decimals, a large integer), and so may an escape.
A slice of the text stays the same. These functions expect text that
:func:`receiver.kling.protocol.parse_object` has accepted, so they find positions and do not validate.

A create with base64 images is tens of megabytes of text. Parsing it would delay every other request for seconds.
:func:`extract_blobs` replaces the long strings first, at a small part of that cost.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")

MIN_BLOB = 64 * 1024
MAX_STRING = 1024

# In JSON, text between two quotes without a colon, comma or bracket is the content of a string.
_BLOB = re.compile(rb'"((?:data:[a-z]+/[a-z0-9.+-]+;base64,)?[A-Za-z0-9+/=_-]{%d,}+)"' % MIN_BLOB)
_MARKERS = (b"KLINGballast", b"ballastKLING", b"bKALLINGlast")
_DIGITS = 8
_PLACEHOLDER_LENGTH = 2048
"""Longer than any string whose content is parsed, so a placeholder is never mistaken for one."""


class RawMember(msgspec.Struct, frozen=True, kw_only=True):
    """One ``"key": value`` of an object: its text, and the position of its value."""

    key: str
    text: str
    value_at: int


def members(text: str, at: int = 0) -> Iterator[RawMember]:
    """Yield the members of the object that begins at *at*, in order, repeated keys included."""
    at = _skip_space(text, _skip_space(text, at) + 1)
    while text[at] != "}":
        start = _skip_space(text, at + 1) if text[at] == "," else at
        key, key_end = _DECODER.raw_decode(text, start)
        value_at = _skip_space(text, _skip_space(text, key_end) + 1)
        end = _value_end(text, value_at)
        yield RawMember(key=key, text=text[start:end], value_at=value_at)
        at = _skip_space(text, end)


def elements(text: str, at: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each element of the array that begins at *at*."""
    at = _skip_space(text, _skip_space(text, at) + 1)
    while text[at] != "]":
        start = _skip_space(text, at + 1) if text[at] == "," else at
        end = _value_end(text, start)
        yield start, end
        at = _skip_space(text, end)


def at_path(text: str, path: Sequence[str | int]) -> str:
    """Return the text of the value at *path*, a sequence of keys and indexes. The last of repeated keys counts."""
    at = _skip_space(text, 0)
    for step in path:
        if isinstance(step, int):
            at, _ = next(islice(elements(text, at), step, None))
        else:
            at = [member.value_at for member in members(text, at) if member.key == step][-1]
    return text[at : _value_end(text, at)]


def join_members(parts: Sequence[str]) -> str:
    """Return an object's text, made of its members' texts."""
    return "{" + ",".join(parts) + "}"


def _value_end(text: str, at: int) -> int:
    return _DECODER.raw_decode(text, at)[1]


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class ExtractedBlobs(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON text with a placeholder for each long string of base64 letters.

    A blob and its placeholder both consist of letters between the same quotes. So either both texts are valid JSON of
    the same shape, or neither is.
    """

    text: bytes
    marker: bytes = b""
    blobs: Sequence[bytes] = ()

    def restore(self, text: bytes) -> bytes:
        """Return *text*, which was derived from this one, with every blob back in its place."""
        if not self.blobs:
            return text
        placeholder = re.compile(re.escape(self.marker) + rb"([0-9]{%d})" % _DIGITS)
        return placeholder.sub(lambda found: self.blobs[int(found[1])], text)


def extract_blobs(text: bytes) -> ExtractedBlobs:
    """Replace the long base64 strings of a JSON text by placeholders; return a text without any unchanged."""
    marker = (
        next((marker for marker in map(_pad_marker, _MARKERS) if marker not in text), None)
        if len(text) > MIN_BLOB
        else None
    )
    if marker is None:
        return ExtractedBlobs(text=text)
    blobs: list[bytes] = []

    def placeholder(found: "re.Match[bytes]") -> bytes:
        blobs.append(found[1])
        return b'"%b%0*d"' % (marker, _DIGITS, len(blobs) - 1)

    return ExtractedBlobs(text=_BLOB.sub(placeholder, text), marker=marker, blobs=blobs)


def _pad_marker(letters: bytes) -> bytes:
    width = _PLACEHOLDER_LENGTH - _DIGITS
    return (letters * (width // len(letters) + 1))[:width]


def truncate_strings(body: bytes) -> bytes:
    """Replace strings of more than MAX_STRING characters by their size and the start of their digest.

    The result is what is kept of a create's body once Kling has the task: readable, and without megabytes of images.
    """
    if len(body) <= MAX_STRING:
        return body
    extracted = extract_blobs(body)
    return json.dumps(_truncate(json.loads(extracted.text), extracted), separators=(",", ":")).encode()


def _truncate(value: object, extracted: ExtractedBlobs) -> object:
    match value:
        case dict():
            return {key: _truncate(inner, extracted) for key, inner in value.items()}
        case list():
            return [_truncate(inner, extracted) for inner in value]
        case str() if len(value) > MAX_STRING:
            whole = extracted.restore(value.encode("utf-8", "surrogatepass"))
            size = len(whole) if whole.isascii() else len(whole.decode("utf-8", "surrogatepass"))
            return f"({size} characters, sha256 {hashlib.sha256(whole).hexdigest()[:16]})"
    return value
