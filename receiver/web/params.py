"""Reads what a client asks for: a query or a JSON object of which every name is known and every value fits."""

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
"""Names the header in which a command says which of this machine's users gave it."""

_PAGING = frozenset({"limit", "cursor"})
_EVENT_ID = re.compile(r"evt_[0-9a-z]{25}")
_BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")  # so that it can stand in a path as it is
_MAX_BATCH_SIZE = 1_000_000
_MAX_TEXT_LENGTH = 256
_MAX_TAGS = 32
_MAX_TAG_LENGTH = 64
_MAX_ACTOR_LENGTH = 64
_MAX_TEXTS = 500

Word = TypeVar("Word", bound=StrEnum)


class QueryParams:
    """A request's query. A name that is not known is refused, so that no filter is ever silently ignored."""

    def __init__(self, request: Request, *, filters: Collection[str] = (), paged: bool = True) -> None:
        known = {*filters, *(_PAGING if paged else ())}
        self._values: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            if name not in known:
                raise bad_request(f"There is no {name!r} to ask for here; there is {_join_sorted(known)}.")
            self._values.setdefault(name, []).append(value)

    def single(self, name: str) -> str | None:
        """Give a name's only value, None where it was not given."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise bad_request(f"{name!r} may be given once.")
        return values[0] if values else None

    def multi(self, name: str) -> list[str]:
        """Give all values of a name, whether it was repeated or they stand behind one another, with commas."""
        return [each for value in self._values.get(name, []) for each in value.split(",") if each]

    def enums(self, name: str, among: type[Word]) -> list[Word]:
        """Give a name's values, each one of a few words."""
        try:
            return [among(word) for word in self.multi(name)]
        except ValueError:
            raise bad_request(f"{name!r} is one of {_join_sorted([str(word) for word in among])}.") from None

    def pairs(self, name: str) -> Mapping[str, str]:
        """Give a name's values, each ``key:value``."""
        split = [value.partition(":") for value in self._values.get(name, [])]
        if any(not key or not colon for key, colon, _ in split):
            raise bad_request(f"{name!r} is written as key:value.")
        if len({key for key, _, _ in split}) != len(split):
            raise bad_request(f"{name!r} may be given once for each key.")
        return {key: value for key, _, value in split}

    def event_id(self, name: str) -> str | None:
        """Give a name's only value, which is an event's id."""
        value = self.single(name)
        return None if value is None else check_event_id(value, name)

    def timestamp(self, name: str) -> datetime | None:
        """Give a name's only value, which is a moment and says how far it is from UTC."""
        return _parse_timestamp(self.single(name), name)

    @property
    def limit(self) -> int:
        """How many items one page may have."""
        text = self.single("limit")
        if text is None:
            return DEFAULT_LIMIT
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) and 1 <= int(text) <= MAX_LIMIT):
            raise bad_request(f"'limit' is a number from 1 to {MAX_LIMIT}.")
        return int(text)

    @property
    def cursor(self) -> str | None:
        """Where the page begins: the former page's ``next``."""
        return self.single("cursor")


def actor(request: Request) -> str:
    """Tell on whose word a request acts, for the record: the token is one, the people behind it may be many."""
    name = request.headers.get(ACTOR_HEADER, "")
    return name[:_MAX_ACTOR_LENGTH] if name.isprintable() and name else "api"


def check_event_id(value: str, name: str) -> str:
    """Check that a value is an event's id."""
    if not _EVENT_ID.fullmatch(value):
        raise bad_request(f"{name!r} is an event's id, such as evt_ and 25 letters and digits.")
    return value


def task_metadata(headers: Headers) -> TaskMetadata:
    """Read what a client wants its task to be known by where the body is not for us; each header may be left out.

    ``kling-receiver-label: spring``, ``kling-receiver-tags: project=ads, team=a``, ``kling-receiver-batch: spring``.
    A batch has no size here: what Kling refuses and the client sends again is a task each time.
    """
    said = {name: _header(headers, name) for name in ("label", "tags", "batch")}
    pairs = [pair.partition("=") for pair in said["tags"].split(",") if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise bad_request("The header kling-receiver-tags is written as name=value, name=value.")
    tags = {key.strip(): value.strip() for key, _, value in pairs}
    fields = JsonBody({"label": said["label"], "tags": tags, "batch": said["batch"] or None}, known=said)
    batch, _ = fields.batch("batch")
    return TaskMetadata(label=fields.text("label"), tags=fields.tags("tags"), batch=batch)


def _header(headers: Headers, name: str) -> str:
    """Give a header of ours, in UTF-8; those of one name stand behind one another."""
    text = ",".join(headers.getlist(f"kling-receiver-{name}"))
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise bad_request(f"The header kling-receiver-{name} is text in UTF-8.") from None


async def read_json_body(request: Request, *, known: Collection[str], limit: int = SMALL_BODY) -> "JsonBody":
    """Read a request's body, a JSON object with no other members than *known*. An empty body is an empty object."""
    body = await read_body(request.scope, request.receive, limit=limit)
    return JsonBody(parse_object(body) if body.strip() else {}, known=known)


class JsonBody:
    """The members of a JSON object that a client sent."""

    def __init__(self, body: Json, *, known: Collection[str]) -> None:
        self._body = body
        for name in body:
            if name not in known:
                raise bad_request(
                    f"There is no member {name[:_MAX_TEXT_LENGTH]!r} here; there is {_join_sorted(known)}."
                )

    def text(self, name: str) -> str | None:
        """Give a member that is a line of text; None where it is missing, null or empty."""
        value = self._body.get(name)
        if value is None or value == "":
            return None
        return _check_line(value, name, _MAX_TEXT_LENGTH)

    def required_text(self, name: str) -> str:
        """Give a member that is a line of text and must be there."""
        value = self.text(name)
        if value is None:
            raise bad_request(f"The member {name!r} is missing.")
        return value

    def number(self, name: str, *, least: int, most: int) -> int:
        """Give a member that is a whole number; 0 where it is missing or null."""
        value = self._body.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise bad_request(f"{name!r} is a whole number from {least} to {most}.")
        return value

    def required_object(self, name: str) -> Json:
        """Give a member that is an object and must be there."""
        value = self._body.get(name)
        if not isinstance(value, dict):
            raise bad_request(f"The member {name!r} is missing, or is no object.")
        return value

    def texts(self, name: str) -> Sequence[str]:
        """Give a member that is a list of lines of text."""
        value = self._body.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > _MAX_TEXTS:
            raise bad_request(f"{name!r} is a list of at most {_MAX_TEXTS} texts.")
        return [_check_line(each, name, _MAX_TEXT_LENGTH) for each in value]

    def enums(self, name: str, among: type[Word]) -> Sequence[Word]:
        """Give a member that is a list of words, each one of a few."""
        try:
            return [among(word) for word in self.texts(name)]
        except ValueError:
            raise bad_request(f"{name!r} is a list of some of {_join_sorted([str(word) for word in among])}.") from None

    def boolean(self, name: str) -> bool:
        """Give a member that is true or false; missing is false."""
        value = self._body.get(name, False)
        if not isinstance(value, bool):
            raise bad_request(f"{name!r} is true or false.")
        return value

    def timestamp(self, name: str) -> datetime | None:
        """Give a member that is a moment, such as ``2026-11-22T10:00:00Z``; it says how far it is from UTC."""
        return _parse_timestamp(self.text(name), name)

    def batch(self, name: str) -> tuple[str | None, int | None]:
        """Give a member that names a batch, as text or as ``{"name": ..., "size": ...}``: its name and size."""
        value = self._body.get(name)
        size = None
        if isinstance(value, dict):
            if unknown := value.keys() - {"name", "size"}:
                raise bad_request(f"There is no {min(unknown)[:_MAX_TEXT_LENGTH]!r} in {name!r}; there is name, size.")
            size, value = value.get("size"), value.get("name", "")
        if value is None and size is None:
            return None, None
        if not isinstance(value, str) or not _BATCH_NAME.fullmatch(value):
            raise bad_request(f"{name!r} has a name of letters, digits, and any of . _ : - between, 100 at most.")
        if size is not None and (type(size) is not int or not 1 <= size <= _MAX_BATCH_SIZE):  # true is an int as well
            raise bad_request(f"The size of {name!r} is a number of tasks, from 1 to {_MAX_BATCH_SIZE}.")
        return value, size

    def tags(self, name: str) -> Mapping[str, str]:
        """Give a member that is an object of short texts; the names in it hold no colon, so as to be asked for."""
        value = self._body.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > _MAX_TAGS:
            raise bad_request(f"{name!r} is an object of at most {_MAX_TAGS} texts.")
        for key in value:
            if not key or ":" in _check_line(key, f"a name in {name}", _MAX_TAG_LENGTH):
                raise bad_request(f"A name in {name!r} is not empty and holds no colon.")
        return {key: _check_line(each, f"{name}.{key}", _MAX_TEXT_LENGTH) for key, each in value.items()}


def _parse_timestamp(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):  # the last hours of the year 9999 may have no UTC
        pass
    raise bad_request(f"{name!r} is a moment with its zone, such as 2026-11-22T10:00:00Z.")


def _check_line(value: object, name: str, max_length: int) -> str:
    if not isinstance(value, str) or len(value) > max_length or not value.isprintable():
        raise bad_request(f"{name!r} is one line of text, of at most {max_length} characters.")
    return value


def _join_sorted(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
