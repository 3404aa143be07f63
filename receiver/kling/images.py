"""Local images made ready for a create: checked against Kling's limits, written as the raw base64 it takes."""

import base64
import struct
from collections.abc import Iterator
from pathlib import Path

from receiver.domain.errors import InvalidRequest

MAX_BYTES = 10 * 1024 * 1024
MIN_SIDE = 300

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.Struct(">4sII")
_PNG_HEADER_AT = 12
_JPEG = b"\xff\xd8\xff"
_JPEG_FRAME = struct.Struct(">BHH")
_MARK = 0xFF
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN_STARTS = frozenset({0xD9, 0xDA})


def base64_image(path: str | Path) -> str:
    """Read an image file as base64 without a ``data:`` prefix; raise InvalidRequest for one Kling would refuse."""
    content = _content(Path(path))
    if content.startswith(_PNG):
        size = _png_size(content)
    elif content.startswith(_JPEG):
        size = _jpeg_size(content)
    else:
        raise InvalidRequest(f"{path} is neither a JPEG nor a PNG image.", remedy="Convert it; Kling takes these two.")
    if size is not None and min(size) < MIN_SIDE:
        width, height = size
        raise InvalidRequest(
            f"{path} is {width} x {height} pixels.", remedy=f"Kling wants at least {MIN_SIDE} pixels a side."
        )
    return base64.b64encode(content).decode("ascii")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidRequest(f"There is no file {path}.", remedy="Check the image's path.") from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a path"
        raise InvalidRequest(f"{path} cannot be read: {reason}.", remedy="Check the image's path.") from exc
    if len(content) > MAX_BYTES:
        raise InvalidRequest(f"{path} is larger than 10 MB.", remedy="Scale it down; 10 MB is Kling's limit.")
    return content


def _png_size(content: bytes) -> tuple[int, int] | None:
    try:
        name, width, height = _PNG_HEADER.unpack_from(content, _PNG_HEADER_AT)
    except struct.error:
        return None
    return (width, height) if name == b"IHDR" else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    for marker, segment in _segments(content):
        if marker in _SIZE_MARKERS and len(segment) >= _JPEG_FRAME.size:
            _precision, height, width = _JPEG_FRAME.unpack_from(segment)
            return width, height
    return None


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Give marker and content of each segment before the picture itself."""
    at = 2
    while at + 4 <= len(content) and content[at] == _MARK:
        marker = content[at + 1]
        if marker == _MARK:
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        elif marker in _SCAN_STARTS:
            return
        else:
            (length,) = struct.unpack(">H", content[at + 2 : at + 4])
            yield marker, content[at + 4 : at + 2 + length]
            at += 2 + max(length, 2)
