"""Images of a create: local files as raw base64 within Kling's limits, and their place in the body."""

import base64
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import Json
from receiver.kling.endpoints import CATALOGUE, Endpoint, FieldImages, FrameImages, ListImages, ObjectImages
from receiver.settings import Dialect

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
    """Return an image file as base64 without a ``data:`` prefix; raise InvalidRequest if Kling would refuse it."""
    return base64_content(str(path), _content(Path(path)))


def base64_content(name: str, content: bytes) -> str:
    """Return the content of an image as base64, like ``base64_image``. *name* is for messages."""
    if len(content) > MAX_BYTES:
        raise InvalidRequest(f"{name} is larger than 10 MB.", remedy="Scale it down; 10 MB is Kling's limit.")
    if content.startswith(_PNG):
        size = _png_size(content)
    elif content.startswith(_JPEG):
        size = _jpeg_size(content)
    else:
        raise InvalidRequest(f"{name} is neither a JPEG nor a PNG image.", remedy="Convert it to JPEG or PNG.")
    if size is not None and min(size) < MIN_SIDE:
        width, height = size
        raise InvalidRequest(
            f"{name} is {width} x {height} pixels.", remedy=f"Kling requires at least {MIN_SIDE} pixels per side."
        )
    return base64.b64encode(content).decode("ascii")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidRequest(f"The file {path} does not exist.", remedy="Check the image's path.") from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "not a path"
        raise InvalidRequest(f"{path} cannot be read: {reason}.", remedy="Check the image's path.") from exc


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
    """Yield marker and content of each segment before the image data."""
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


def fill_images(endpoint: Endpoint, body: Json, images: Sequence[str], dialect: Dialect) -> Json:
    """Return the body with *images*, URLs or base64, in the members that this endpoint and dialect use.

    Images already in the body stay first. Raises InvalidRequest if there is no place for the images.
    """
    layout = endpoint.images
    if endpoint.path == "images/multi-image2image":
        body = _spell_scene_key(body, dialect)
        if dialect is Dialect.GATEWAY:
            layout = ListImages(name="subject_image_list")
    if not images:
        return body
    match layout:
        case FieldImages(names=names):
            return _into_fields(endpoint, body, images, names)
        case ListImages(name=name, key=key):
            return body | {name: _list(body, name) + [image if key is None else {key: image} for image in images]}
        case FrameImages():
            return _into_contents(endpoint, body, images, layout)
        case ObjectImages():
            return _into_object(endpoint, body, images, layout)
    reason = (
        "takes no images"
        if endpoint.path in CATALOGUE
        else "is not a known endpoint, so the place of its images is unknown"
    )
    raise InvalidRequest(f"{endpoint.path} {reason}.", remedy="Write the images into the body yourself.")


def _spell_scene_key(body: Json, dialect: Dialect) -> Json:
    """Rename the scene image's key for the dialect: ``scene_image`` at Kling, ``scence_image`` (a typo) at gateways."""
    right, wrong = ("scence_image", "scene_image") if dialect is Dialect.GATEWAY else ("scene_image", "scence_image")
    if wrong not in body or right in body:
        return body
    return {right if key == wrong else key: value for key, value in body.items()}


def _into_fields(endpoint: Endpoint, body: Json, images: Sequence[str], names: Sequence[str]) -> Json:
    free = [name for name in names if not body.get(name)]
    if len(images) > len(free):
        raise _too_many(
            endpoint, f"{len(free)}, as {_join_names(free)}" if free else f"none: {_join_names(names)} is set"
        )
    return body | dict(zip(free, images, strict=False))


def _into_contents(endpoint: Endpoint, body: Json, images: Sequence[str], layout: FrameImages) -> Json:
    contents = _list(body, "contents")
    taken = [part.get("type") for part in contents if isinstance(part, dict)]
    free = [part for part in layout.parts if layout.may_repeat or part not in taken]
    if layout.may_repeat:
        free = [layout.parts[-1]] * len(images)
    if len(images) > len(free):
        raise _too_many(endpoint, f"{len(free)} more in `contents`")
    return body | {
        "contents": contents + [{"type": part, "url": image} for part, image in zip(free, images, strict=False)]
    }


def _into_object(endpoint: Endpoint, body: Json, images: Sequence[str], layout: ObjectImages) -> Json:
    inner = body.get(layout.name) or {}
    if not isinstance(inner, dict):
        raise InvalidRequest(
            f"`{layout.name}` must be an object.", remedy=f"{endpoint.path} expects its images inside it."
        )
    if len(images) == 1 and not inner.get(layout.one) and not (layout.several and inner.get(layout.several)):
        return body | {layout.name: inner | {layout.one: images[0]}}
    if layout.several is None or inner.get(layout.one):
        raise _too_many(endpoint, f"one, as `{layout.name}.{layout.one}`")
    return body | {layout.name: inner | {layout.several: [*_list(inner, layout.several), *images]}}


def _list(body: Json, name: str) -> list[object]:
    held = body.get(name) or []
    if not isinstance(held, list):
        raise InvalidRequest(f"`{name}` must be a list.", remedy="Write it as a list, or remove it.")
    return held


def _too_many(endpoint: Endpoint, capacity: str) -> InvalidRequest:
    return InvalidRequest(f"Too many images: {endpoint.path} takes {capacity}.", remedy="Remove some.")


def _join_names(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
