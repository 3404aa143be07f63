"""Parses query parameters and JSON bodies. Unknown names and invalid values are errors that say what is expected."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request

from receiver.domain.model import Json
from receiver.kling.protocol import parse_object
from receiver.submission.request import TaskMetadata
from receiver.web.server.body import read_body
from receiver.web.server.problems import bad_request

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
SMALL_BODY = 1024 * 1024
ACTOR_HEADER = "kling-receiver-actor"
"""The header in which the CLI sends the name of the operating system's user."""

_PAGING = frozenset({"limit", "cursor"})
_EVENT_ID = re.compile(r"evt_[0-9a-z]{25}")
_BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")  # needs no quoting in a path
_MAX_BATCH_SIZE = 1_000_000
_MAX_TEXT_LENGTH = 256
_MAX_TAGS = 32
_MAX_TAG_LENGTH = 64
_MAX_ACTOR_LENGTH = 64
_MAX_LIST_ITEMS = 500

EnumT = TypeVar("EnumT", bound=StrEnum)


class QueryParams:
    """A request's query parameters. Unknown names are errors, so that no filter is silently ignored."""

    def __init__(self, request: Request, *, filters: Collection[str] = (), paged: bool = True) -> None:
        known = {*filters, *(_PAGING if paged else ())}
        self._values: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            if name not in known:
                raise bad_request(f"Unknown query parameter {name!r}. Expected: {_join_sorted(known)}.")
            self._values.setdefault(name, []).append(value)

    def single(self, name: str) -> str | None:
        """Return a parameter's value, or None if it is missing. It must not be repeated."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise bad_request(f"{name!r} must be given only once.")
        return values[0] if values else None

    def multi(self, name: str) -> list[str]:
        """Return all values of a parameter, which may be repeated or separated by commas."""
        return [each for value in self._values.get(name, []) for each in value.split(",") if each]

    def enums(self, name: str, among: type[EnumT]) -> list[EnumT]:
        """Return a parameter's values as members of an enum."""
        try:
            return [among(word) for word in self.multi(name)]
        except ValueError:
            raise bad_request(f"{name!r} must be one of: {_join_sorted([str(word) for word in among])}.") from None

    def pairs(self, name: str) -> Mapping[str, str]:
        """Return a parameter's values, each written ``key:value``."""
        split = [value.partition(":") for value in self._values.get(name, [])]
        if any(not key or not colon for key, colon, _ in split):
            raise bad_request(f"{name!r} must be written as key:value.")
        if len({key for key, _, _ in split}) != len(split):
            raise bad_request(f"{name!r} must be given only once for each key.")
        return {key: value for key, _, value in split}

    def event_id(self, name: str) -> str | None:
        """Return a parameter's value, which must be an event's ID."""
        value = self.single(name)
        return None if value is None else check_event_id(value, name)

    def timestamp(self, name: str) -> datetime | None:
        """Return a parameter's value, which must be a timestamp with a UTC offset."""
        return _parse_timestamp(self.single(name), name)

    @property
    def limit(self) -> int:
        """The maximum number of items in the page."""
        text = self.single("limit")
        if text is None:
            return DEFAULT_LIMIT
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
            raise bad_request(f"'limit' must be a number from 1 to {MAX_LIMIT}.")
        return int(text)

    @property
    def cursor(self) -> str | None:
        """The start of the page: the previous page's ``next``."""
        return self.single("cursor")


def actor(request: Request) -> str:
    """Return who acts, for the audit log. All operators share one token, so the CLI sends the user's name."""
    name = request.headers.get(ACTOR_HEADER, "")
    return name[:_MAX_ACTOR_LENGTH] if name.isprintable() and name else "api"


def check_event_id(value: str, name: str) -> str:
    """Return *value* if it is an event's ID; raise ``Problem`` (400) otherwise."""
    if not _EVENT_ID.fullmatch(value):
        raise bad_request(f"{name!r} must be an event's ID: evt_ and 25 letters or digits.")
    return value


def task_metadata(headers: Headers) -> TaskMetadata:
    """Parse the optional headers with a task's label, tags and batch; the gateway's body belongs to Kling.

    ``kling-receiver-label: spring``, ``kling-receiver-tags: project=ads, team=a``, ``kling-receiver-batch: spring``.
    A batch has no size here: each time a client repeats a create that Kling refused, that is another task.
    """
    values = {name: _header(headers, name) for name in ("label", "tags", "batch")}
    pairs = [pair.partition("=") for pair in values["tags"].split(",") if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise bad_request("The header kling-receiver-tags must be written as name=value, name=value.")
    tags = {key.strip(): value.strip() for key, _, value in pairs}
    fields = JsonBody({"label": values["label"], "tags": tags, "batch": values["batch"] or None}, known=values)
    batch, _ = fields.batch("batch")
    return TaskMetadata(label=fields.text("label"), tags=fields.tags("tags"), batch=batch)


def _header(headers: Headers, name: str) -> str:
    """Return one of our headers, decoded as UTF-8; repeated headers are joined with commas."""
    text = ",".join(headers.getlist(f"kling-receiver-{name}"))
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise bad_request(f"The header kling-receiver-{name} must be UTF-8 text.") from None


async def read_json_body(request: Request, *, known: Collection[str], limit: int = SMALL_BODY) -> "JsonBody":
    """Read a request's body: a JSON object whose members are all in *known*. An empty body is an empty object."""
    body = await read_body(request.scope, request.receive, limit=limit)
    return JsonBody(parse_object(body) if body.strip() else {}, known=known)


class JsonBody:
    """The members of a JSON object that a client sent."""

    def __init__(self, body: Json, *, known: Collection[str]) -> None:
        self._body = body
        for name in body:
            if name not in known:
                raise bad_request(f"Unknown member {name[:_MAX_TEXT_LENGTH]!r}. Expected: {_join_sorted(known)}.")

    def text(self, name: str) -> str | None:
        """Return a member that is a line of text, or None if it is missing, null or empty."""
        value = self._body.get(name)
        if value is None or value == "":
            return None
        return _check_line(value, name, _MAX_TEXT_LENGTH)

    def required_text(self, name: str) -> str:
        """Return a required member that is a line of text."""
        value = self.text(name)
        if value is None:
            raise bad_request(f"The member {name!r} is missing.")
        return value

    def number(self, name: str, *, least: int, most: int) -> int:
        """Return a member that is a whole number, or 0 if it is missing or null."""
        value = self._body.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise bad_request(f"{name!r} must be a whole number from {least} to {most}.")
        return value

    def required_object(self, name: str) -> Json:
        """Return a required member that is an object."""
        value = self._body.get(name)
        if not isinstance(value, dict):
            raise bad_request(f"The member {name!r} is missing or not an object.")
        return value

    def texts(self, name: str) -> Sequence[str]:
        """Return a member that is a list of lines of text."""
        value = self._body.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > _MAX_LIST_ITEMS:
            raise bad_request(f"{name!r} must be a list of at most {_MAX_LIST_ITEMS} texts.")
        return [_check_line(each, name, _MAX_TEXT_LENGTH) for each in value]

    def enums(self, name: str, among: type[EnumT]) -> Sequence[EnumT]:
        """Return a member that is a list of an enum's values."""
        try:
            return [among(word) for word in self.texts(name)]
        except ValueError:
            expected = _join_sorted([str(word) for word in among])
            raise bad_request(f"{name!r} must be a list with items from: {expected}.") from None

    def boolean(self, name: str) -> bool:
        """Return a member that is true or false, or False if it is missing."""
        value = self._body.get(name, False)
        if not isinstance(value, bool):
            raise bad_request(f"{name!r} must be true or false.")
        return value

    def timestamp(self, name: str) -> datetime | None:
        """Return a member that is a timestamp with a UTC offset, such as ``2026-11-22T10:00:00Z``."""
        return _parse_timestamp(self.text(name), name)

    def batch(self, name: str) -> tuple[str | None, int | None]:
        """Return the name and size of a member that is a batch: a name, or ``{"name": ..., "size": ...}``."""
        value = self._body.get(name)
        size = None
        if isinstance(value, dict):
            if unknown := value.keys() - {"name", "size"}:
                raise bad_request(
                    f"Unknown member {min(unknown)[:_MAX_TEXT_LENGTH]!r} in {name!r}. Expected: name, size."
                )
            size, value = value.get("size"), value.get("name", "")
        if value is None and size is None:
            return None, None
        if not isinstance(value, str) or not _BATCH_NAME.fullmatch(value):
            raise bad_request(
                f"{name!r} must have a name of at most 100 letters, digits or . _ : - and start with a letter or digit."
            )
        if size is not None and (type(size) is not int or not 1 <= size <= _MAX_BATCH_SIZE):  # a bool is an int too
            raise bad_request(f"The size of {name!r} must be a number of tasks from 1 to {_MAX_BATCH_SIZE}.")
        return value, size

    def tags(self, name: str) -> Mapping[str, str]:
        """Return a member that maps names to short texts. Names contain no colon, since filters are ``key:value``."""
        value = self._body.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > _MAX_TAGS:
            raise bad_request(f"{name!r} must be an object of at most {_MAX_TAGS} texts.")
        for key in value:
            if not key or ":" in _check_line(key, f"a name in {name}", _MAX_TAG_LENGTH):
                raise bad_request(f"A name in {name!r} must not be empty or contain a colon.")
        return {key: _check_line(each, f"{name}.{key}", _MAX_TEXT_LENGTH) for key, each in value.items()}


def _parse_timestamp(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):  # the last hours of the year 9999 may not exist in UTC
        pass
    raise bad_request(f"{name!r} must be a timestamp with a UTC offset, such as 2026-11-22T10:00:00Z.")


def _check_line(value: object, name: str, max_length: int) -> str:
    if not isinstance(value, str) or len(value) > max_length or not value.isprintable():
        raise bad_request(f"{name!r} must be a single line of at most {max_length} characters.")
    return value


def _join_sorted(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
