"""Takes what is long out of a JSON text, so that the rest is read and changed at next to no cost, and puts it back.

A create with pictures in base64 is tens of megabytes of text that nobody here looks into. To read them as JSON would
hold up every other request for seconds; to find where they are takes a small part of that. Pure.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MIN_BLOB = 64 * 1024

# What stands between two quotes without a colon, a comma or a bracket is a string's inside, or the text is not JSON.
_BLOB = re.compile(rb'"((?:data:[a-z]+/[a-z0-9.+-]+;base64,)?[A-Za-z0-9+/=_-]{%d,}+)"' % MIN_BLOB)
_MARKERS = (b"KLINGballast", b"ballastKLING", b"bKALLINGlast")
_DIGITS = 8
_PLACEHOLDER_LENGTH = 2048
"""How long a stand-in is: longer than any text that is read for what it says, so that it is never taken for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedBlobs:
    """A JSON text in which a stand-in is where each long run of letters was.

    A run and its stand-in are both letters between the same quotes, so that either both texts are JSON, of the same
    shape, or neither is.
    """

    text: bytes
    marker: bytes = b""
    blobs: Sequence[bytes] = ()

    def restore(self, text: bytes) -> bytes:
        """Put everything back into a text that was made of this one."""
        if not self.blobs:
            return text
        stand_in = re.compile(re.escape(self.marker) + rb"([0-9]{%d})" % _DIGITS)
        return stand_in.sub(lambda found: self.blobs[int(found[1])], text)


def extract_blobs(text: bytes) -> ExtractedBlobs:
    """Take the long runs of letters out of a JSON text; one without any comes back as it is."""
    stem = (
        next((stem for stem in map(_pad_marker, _MARKERS) if stem not in text), None) if len(text) > MIN_BLOB else None
    )
    if stem is None:
        return ExtractedBlobs(text=text)
    runs: list[bytes] = []

    def stand_in(found: "re.Match[bytes]") -> bytes:
        runs.append(found[1])
        return b'"%b%0*d"' % (stem, _DIGITS, len(runs) - 1)

    return ExtractedBlobs(text=_BLOB.sub(stand_in, text), marker=stem, blobs=runs)


def _pad_marker(letters: bytes) -> bytes:
    width = _PLACEHOLDER_LENGTH - _DIGITS
    return (letters * (width // len(letters) + 1))[:width]
