"""Reads query parameters, JSON bodies and headers. An invalid value is an error that says what is expected."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers
from starlette.requests import Request

from receiver.domain.model import ClientCallbacks
from receiver.kling.protocol import parse_object
from receiver.submission.request import TaskMetadata
from receiver.web.api_requests import CALLBACK_CHOICES, Body, Query, TaskLabelRequest
from receiver.web.member_docstrings import member_docstrings
from receiver.web.request_types import SENTENCE, EventId, shorten
from receiver.web.server.body import SMALL_BODY, read_body
from receiver.web.server.problems import Problem, bad_request

ACTOR_HEADER = "kling-receiver-actor"
"""The header in which the CLI sends the name of the operating system's user."""

_JSON_TYPES = ("", "application/json", "application/x-www-form-urlencoded")  # the last one is curl's default
_MAX_ACTOR_LENGTH = 64
_MAX_NUMBER_LENGTH = 32
_LAST_EVENT_ID = "Last-Event-ID"
_EVENT_ID: TypeAdapter[str] = TypeAdapter(EventId, config=ConfigDict(defer_build=True))

ModelT = TypeVar("ModelT", bound=BaseModel)
QueryT = TypeVar("QueryT", bound=Query)
BodyT = TypeVar("BodyT", bound=Body)


def read_query(request: Request, model: type[QueryT]) -> QueryT:
    """Return a request's query parameters."""
    values: dict[str, list[str]] = {}
    try:
        unquote_to_bytes(request.scope["query_string"]).decode()
    except UnicodeDecodeError:  # it would be read as replacement characters, and find nothing
        raise bad_request("The query must be UTF-8 text, percent-encoded.") from None
    for name, value in request.query_params.multi_items():
        values.setdefault(name, []).append(value)
    return validate(model, values)


async def read_json_body(request: Request, model: type[BodyT], *, limit: int = SMALL_BODY) -> BodyT:
    """Return a request's body: a JSON object. An empty body is an empty object.

    A body may come without a media type, or as curl sends it without one. Any other type is refused (415).
    """
    _check_media_type(request.headers.get("content-type", ""))
    body = await read_body(request.scope, request.receive, limit=limit)
    return validate(model, parse_object(body) if body.strip() else {})


def _check_media_type(given: str) -> None:
    media_type = given.partition(";")[0].strip().lower()
    if media_type in _JSON_TYPES or media_type.endswith("+json"):
        return
    detail = f"The body must be JSON: content-type: application/json; found {shorten(media_type)}."
    raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media_type", detail, headers={"accept": "application/json"})


def validate(model: type[ModelT], values: Mapping[str, object]) -> ModelT:
    """Return the values of a request; raise ``Problem`` (400) if they are not as the model says."""
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise _problem(exc, model) from None


def last_event_id(request: Request) -> str | None:
    """Return the ID of the event that the client of a stream received last, from its header."""
    value = request.headers.get(_LAST_EVENT_ID)
    try:
        return _EVENT_ID.validate_python(value) if value else None
    except ValidationError as exc:
        raise bad_request(_describe(exc.errors()[0], repr(_LAST_EVENT_ID))) from None


def actor(request: Request) -> str:
    """Return who acts, for the audit log: the name of a named token, else the user's name that the CLI sends."""
    name = request.headers.get(ACTOR_HEADER, "")
    return name[:_MAX_ACTOR_LENGTH] if name.isprintable() and name else "api"


def task_metadata(headers: Headers) -> TaskMetadata:
    """Parse the optional headers with a task's label, tags and batch; the gateway's body belongs to Kling.

    ``kling-receiver-label: spring``, ``kling-receiver-tags: project=ads, team=a``, ``kling-receiver-batch: spring``.
    ``kling-receiver-callbacks: final`` chooses what the client's callback URL receives.
    A batch has no size here: each time a client repeats a create that Kling refused, that is another task.
    """
    values = {name: _header(headers, name) for name in ("label", "tags", "batch", "callbacks")}
    if not any(values.values()):
        return TaskMetadata()
    pairs = [pair.partition("=") for pair in values["tags"].split(",") if pair.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise bad_request("The header kling-receiver-tags must be written as name=value, name=value.")
    tags = {key.strip(): value.strip() for key, _, value in pairs}
    label = validate(TaskLabelRequest, {"label": values["label"], "tags": tags, "batch": values["batch"] or None})
    return TaskMetadata(
        label=label.label,
        tags=label.tags,
        batch=label.batch.name if label.batch else None,
        callbacks=_callbacks(values["callbacks"]),
    )


def _callbacks(value: str) -> ClientCallbacks | None:
    """Parse ``kling-receiver-callbacks``."""
    if value not in ("", *CALLBACK_CHOICES):
        raise bad_request(f"The header kling-receiver-callbacks must be all or final; found {shorten(value)}.")
    return ClientCallbacks(value) if value else None


def _header(headers: Headers, name: str) -> str:
    """Return one of our headers, decoded as UTF-8; repeated headers are joined with commas."""
    text = ",".join(headers.getlist(f"kling-receiver-{name}"))
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise bad_request(f"The header kling-receiver-{name} must be UTF-8 text.") from None


def _problem(exc: ValidationError, model: type[BaseModel]) -> Problem:
    """Return the problem (400) of the first error."""
    error = exc.errors(include_url=False)[0]
    location = [step for step in error["loc"] if isinstance(step, str)]
    if error["type"] == SENTENCE:
        return bad_request(f"{_name(location)}: {error['msg']}" if location else error["msg"])
    if error["type"] == "missing":
        name = location[-1]
        return bad_request(f"The member {name!r} is missing. {member_docstrings(model).get(str(name), '')}".strip())
    if location[-1] == "[key]":
        return bad_request(_describe(error, f"A name in {_name(location[:1])}"))
    is_item = issubclass(model, Body) and isinstance(error["loc"][-1], int)
    return bad_request(_describe(error, f"An item of {_name(location)}" if is_item else _name(location)))


def _name(location: Sequence[str]) -> str:
    return shorten(".".join(location))


def _describe(error: ErrorDetails, name: str) -> str:
    context = error.get("ctx", {"what": f"valid: {error['msg']}", "shown": False})
    return f"{name} must be {context['what']}; found {_found(error['input'], is_shown=bool(context['shown']))}."


def _found(value: object, *, is_shown: bool) -> str:
    """Return what was found, without the text itself if it may be a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)[:_MAX_NUMBER_LENGTH] if is_shown else "a number"
        case str():
            return shorten(value) if is_shown else f"text of length {len(value)}"
        case list():
            return f"a list of length {len(value)}"
        case _:
            return "an object"
