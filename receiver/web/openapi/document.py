"""The OpenAPI 3.1 document of the admin API, served at ``/openapi.json``. It is generated from the operations."""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, get_origin

from receiver import __version__
from receiver.domain.api_schema.resources import OpenApiDocument, Problem
from receiver.domain.model import Json
from receiver.web.openapi.operations import OPERATIONS, Operation
from receiver.web.openapi.schemas import Schemas
from receiver.web.openapi.webhooks import EVENT_TYPES, webhooks
from receiver.web.server import problems

_TASK_ID = "The task's ID: the receiver's, Kling's or the external one."
_PATH_PARAMETERS = {
    "tasks": _TASK_ID,
    "callback-urls": _TASK_ID,
    "batches": "Name of the batch.",
    "events": "ID of the event.",
    "deliveries": "ID of the delivery.",
    "alerts": "ID of the alert.",
    "replays": "ID of the replay.",
    "routes": "Name of the route.",
    "results": _TASK_ID,
}
_TEXTS: Mapping[str, Json] = {
    "text/event-stream": {
        "type": "string",
        "description": "Server-sent events: `id` is the event's ID, `event` its type, and `data` its JSON, an Event.",
    },
    "*/*": {"description": "The file, of its own type."},
    "text/plain": {"type": "string", "description": "One line for each value: name, labels, number."},
}
"""Responses that are not JSON, by media type."""
TAGS: Mapping[str, str] = {
    "tasks": "Submitted tasks and their callback URLs.",
    "batches": "Groups of tasks.",
    "costs": "What tasks cost.",
    "events": "What happened to tasks, and alerts as events.",
    "deliveries": "Events on their way to a route.",
    "replays": "Past events that are delivered again.",
    "routes": "Where events go.",
    "alerts": "What needs an operator.",
    "results": "Archived files.",
    "service": "The running process and its configuration.",
    "gateway": "Kling's own API at /kling/.",
}
_TAG_OF = {"callback-urls": "tasks", "endpoints": "tasks", "stream": "events", "trigger": "routes"}
_ALWAYS = (HTTPStatus.INTERNAL_SERVER_ERROR,)
_WITH_TOKEN = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_WITH_BODY = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


def _content(schema: Json, media_type: str = "application/json") -> Json:
    return {"content": {media_type: {"schema": schema}}}


class _DocumentBuilder:
    """Describes each operation, with references to the schemas."""

    def __init__(self) -> None:
        operations = [operation for methods in OPERATIONS.values() for operation in methods.values()]
        queries = {operation.query: None for operation in operations}
        bodies = {operation.body: None for operation in operations if operation.body is not None}
        responses = {type_: None for each in operations for type_ in each.returns.values() if type_ is not None}
        received = [type_ for _, type_ in EVENT_TYPES.values()]
        self._schemas = Schemas([*queries, *bodies], [*responses, *received, Problem])
        self._query_members = {query: self._schemas.take_members(query) for query in queries}

    def document(self) -> OpenApiDocument:
        return OpenApiDocument(
            openapi="3.1.0",
            info={
                "title": "Kling Receiver",
                "version": __version__,
                "description": "The admin API. Kling's own API is served at /kling/, as Kling documents it."
                " Headers set the label, tags and batch of a task created there: kling-receiver-label,"
                " kling-receiver-tags (project=ads, team=a), kling-receiver-batch (spring). kling-receiver-callbacks"
                " (all, final) sets what its callback_url receives: each status, or only the end.",
            },
            security=[{"token": []}],
            tags=[{"name": name, "description": text} for name, text in TAGS.items()],
            paths={
                path: {method: self._operation(path, method, operation) for method, operation in methods.items()}
                for path, methods in OPERATIONS.items()
            },
            webhooks=webhooks(self._schemas.of),
            components={
                "schemas": self._schemas.named,
                "responses": {_error_name(status): self._error(status) for status in sorted(_all_errors())},
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        )

    def _operation(self, path: str, method: str, operation: Operation) -> Json:
        described: Json = {
            "operationId": operation.id,
            "tags": [_tag(path)],
            "summary": operation.summary,
            "parameters": [*_path_parameters(path), *self._query_parameters(operation)],
            "responses": {
                **{
                    str(status.value): self._response(operation, status, type_)
                    for status, type_ in operation.returns.items()
                },
                **{
                    str(status.value): {"$ref": f"#/components/responses/{_error_name(status)}"}
                    for status in sorted(_errors(path, method, operation))
                },
            },
        }
        if operation.body is not None:
            is_required = any(field.is_required() for field in operation.body.model_fields.values())
            described["requestBody"] = {"required": is_required, **_content(self._schemas.of(operation.body))}
        if operation.is_public:
            described["security"] = []
        return described

    def _response(self, operation: Operation, status: HTTPStatus, type_: type[Any] | None) -> Json:
        if type_ is None:
            return {"description": status.phrase, **_content(_TEXTS[operation.media_type], operation.media_type)}
        media_type = problems.MEDIA_TYPE if issubclass(get_origin(type_) or type_, Problem) else "application/json"
        return {"description": status.phrase, **_content(self._schemas.of(type_), media_type)}

    def _error(self, status: HTTPStatus) -> Json:
        return {"description": status.phrase, **_content(self._schemas.of(Problem), problems.MEDIA_TYPE)}

    def _query_parameters(self, operation: Operation) -> Iterator[Json]:
        for name, member in self._query_members[operation.query].items():
            schema = {key: value for key, value in member.items() if key != "description"}
            if not isinstance(schema.get("default"), int):  # the others are described, or none
                schema.pop("default", None)
            match schema.pop("anyOf", None):
                case [present, {"type": "null"}]:  # a parameter may be missing, but not null
                    schema = {**present, **schema}
            yield {"name": name, "in": "query", "description": member["description"], "schema": schema}


def _tag(path: str) -> str:
    resource = path.removeprefix("/api").split("/")[1]
    name = _TAG_OF.get(resource, resource)
    return name if name in TAGS else "service"


def _errors(path: str, method: str, operation: Operation) -> Collection[HTTPStatus]:
    """Return the statuses of an operation's errors. The listeners' own, such as 408 and 431, have no operation."""
    if operation.is_public:
        return _ALWAYS
    found = {*_ALWAYS, *_WITH_TOKEN, *operation.errors}
    if "{" in path:
        found.add(HTTPStatus.NOT_FOUND)
    if method != "get":
        found.add(HTTPStatus.FORBIDDEN)
    return found | set(_WITH_BODY) if operation.body is not None else found


def _all_errors() -> Collection[HTTPStatus]:
    return {
        status
        for path, methods in OPERATIONS.items()
        for method, operation in methods.items()
        for status in _errors(path, method, operation)
    }


def _error_name(status: HTTPStatus) -> str:
    return f"Error{status.value}"


def _path_parameters(path: str) -> Iterator[Json]:
    for resource, name in re.findall(r"(\w[\w-]*)/\{(\w+)\}", path):
        description = _PATH_PARAMETERS[resource]
        yield _path_parameter(name, description)
    if path.endswith("/{file}"):
        yield _path_parameter("file", "Name of the file, such as 0.png: the result's number and type.")


def _path_parameter(name: str, description: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


@cache
def openapi_document() -> OpenApiDocument:
    """Return the document. The first call takes a while, so a server makes it in a thread."""
    return _DocumentBuilder().document()
