"""Reads a form with files (``multipart/form-data``, RFC 7578), as browsers send it. Pure.

The whole body is in memory already, within its limit, so the parts are cut out of it.
"""

import re

import msgspec

from receiver.web.server.problems import Problem, bad_request

MAX_PARTS = 100
"""The most fields and files of one form."""

_MAX_HEAD = 4096
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;.*?boundary="?(?P<boundary>[\x21-\x7e]{1,70}?)"?\s*(?:;.*)?', re.IGNORECASE
)
_NAME = re.compile(r'(?:^|;)\s*name="(?P<name>[^"]*)"', re.IGNORECASE)
_FILE_NAME = re.compile(r'(?:^|;)\s*filename="(?P<name>[^"]*)"', re.IGNORECASE)
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}


class Upload(msgspec.Struct, frozen=True):
    """A file of a form. The name is the visitor's own, for messages alone."""

    name: str
    content: bytes


class Form(msgspec.Struct, frozen=True):
    """The fields of a form, the last value of each, and its files by field."""

    fields: dict[str, str] = msgspec.field(default_factory=dict)
    files: dict[str, list[Upload]] = msgspec.field(default_factory=dict)


def parse_form(body: bytes, content_type: str) -> Form:
    """Return the fields and files of a form. A file field without a choice has no file. Raises ``Problem`` (400)."""
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise bad_request("The form must be sent as multipart/form-data.")
    delimiter = b"\r\n--" + found["boundary"].encode()
    parts = (b"\r\n" + body).split(delimiter, MAX_PARTS + 2)
    if len(parts) > MAX_PARTS + 2 or not parts[-1].startswith(b"--"):
        raise _invalid()
    form = Form()
    for part in parts[1:-1]:
        _add(form, part)
    return form


def _add(form: Form, part: bytes) -> None:
    end = part.find(b"\r\n\r\n", 0, _MAX_HEAD)
    if end < 0:
        raise _invalid()
    head, content = part[:end].decode("utf-8", "replace"), part[end + 4 :]
    disposition = next((line for line in head.split("\r\n") if line.lower().startswith("content-disposition:")), "")
    name, file_name = _NAME.search(disposition), _FILE_NAME.search(disposition)
    if name is None:
        raise _invalid()
    if file_name is None:
        try:
            form.fields[_unescape(name["name"])] = content.decode()
        except UnicodeDecodeError:
            raise bad_request("The form must be UTF-8 text.") from None
    elif file_name["name"] or content:
        form.files.setdefault(_unescape(name["name"]), []).append(Upload(_unescape(file_name["name"]), content))


def _unescape(text: str) -> str:
    return re.sub("%22|%0D|%0A", lambda found: _ESCAPES[found[0]], text)


def _invalid() -> Problem:
    return bad_request("The form could not be read. Send it again.")
