"""What a downloaded file is, by its content type and its first bytes. Pure.

A server may answer 200 with an error document in JSON, XML or HTML. Such a document is not a result.
"""

import codecs
import re
from collections.abc import Mapping

UNKNOWN_TYPE = "application/octet-stream"

EXTENSIONS: Mapping[str, str] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/mp4": "m4a",
    UNKNOWN_TYPE: "bin",
}
"""The extension of each known type."""

TYPES_BY_EXTENSION: Mapping[str, str] = {extension: type_ for type_, extension in EXTENSIONS.items()}

_ALIASES: Mapping[str, str] = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-m4a": "audio/mp4",
}
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"ID3", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_RIFF_TYPES = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}

_DOCUMENT_TYPE = re.compile(r"(?:application|text)/(?:[^/]+\+|x-)?(?P<kind>json|xml|html)")
_MARKUP_FORMATS = ("+xml", "+json")  # such as image/svg+xml: a result that looks like a document
_DOCUMENT_START = re.compile(r"(?P<markup><[!?/A-Za-z])|(?:\{\s*[\"}]|\[\s*[\"{\[\]])")
_HTML_START = re.compile(r"(?:<!--.*?-->\s*)*+<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0e-\x1f]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD_BYTES = 4096

_WEB_PAGE = "a web page"


def normalize(content_type: str) -> str:
    """Return the known type that *content_type* means, or UNKNOWN_TYPE."""
    content_type = _ALIASES.get(content_type, content_type)
    return content_type if content_type in EXTENSIONS else UNKNOWN_TYPE


def sniff(head: bytes) -> str:
    """Return the type of a file by its first bytes, or UNKNOWN_TYPE."""
    for start, content_type in _SIGNATURES:
        if head.startswith(start):
            return content_type
    if head[4:8] == b"ftyp":
        return "video/mp4"
    return _RIFF_TYPES.get(head[8:12], UNKNOWN_TYPE) if head.startswith(b"RIFF") else UNKNOWN_TYPE


def document_of_type(content_type: str) -> str | None:
    """Return what kind of document a content type is: a web page, or a document in JSON or XML. None for others."""
    found = _DOCUMENT_TYPE.fullmatch(content_type)
    return None if found is None else _describe(found["kind"], is_page="html" in content_type)


def document_in(content: bytes | bytearray, content_type: str) -> str | None:
    """Return what kind of document *content* is by its first bytes, also under another type. None for others."""
    if content_type.endswith(_MARKUP_FORMATS):
        return None
    head = bytes(content[:_HEAD_BYTES])
    text = head.decode("utf-16" if head.startswith(_UTF16_MARKS) else "utf-8", "replace").lstrip("\ufeff \t\r\n\f")
    found = _DOCUMENT_START.match(text)
    if found is None or _CONTROL_CHARACTER.search(text):  # a binary file may begin with the same bytes by chance
        return None
    return _describe("xml" if found["markup"] else "json", is_page=_HTML_START.match(text) is not None)


def _describe(kind: str, *, is_page: bool) -> str:
    return _WEB_PAGE if is_page else f"a document in {kind.upper()}"
