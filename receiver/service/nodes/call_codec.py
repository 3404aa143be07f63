"""How calls between nodes are written: JSON, and bodies as they are. A node of the next version must read them too."""

from typing import Any

import msgspec

from receiver.domain import errors
from receiver.domain.errors import CallLost, KeyReused, KlingUncertain, ReceiverError
from receiver.domain.model import RouteState
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import PassThrough
from receiver.submission.request import Caller, TaskMetadata

_ANSWER, _ERROR = b"+", b"-"
_SIMPLE = {
    kind.code: kind
    for kind in (
        errors.InvalidRequest,
        errors.NotFound,
        errors.Conflict,
        errors.MalformedBody,
        errors.AddressBlocked,
        errors.StoreUnavailable,
        errors.ServiceStopping,
        errors.KlingUnreachable,
        errors.CallLost,
    )
}


def encode_answer(answer: bytes) -> bytes:
    """Return a successful answer as it is stored."""
    return _ANSWER + answer


def encode_error(error: ReceiverError) -> bytes:
    """Return an error as it is stored."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message, "remedy": error.remedy}
    if isinstance(error, KeyReused):
        fields["task_id"] = error.task_id
    if isinstance(error, KlingUncertain):
        fields["external_task_id"] = error.external_task_id
    return _ERROR + msgspec.json.encode(fields)


def decode_answer(stored: bytes) -> bytes:
    """Return the answer of a call, or raise the error that it is."""
    if stored.startswith(_ANSWER):
        return stored[1:]
    fields = msgspec.json.decode(stored[1:])
    code, message, remedy = fields["code"], fields["message"], fields["remedy"]
    if code == KeyReused.code:
        raise KeyReused(message, remedy=remedy, task_id=fields["task_id"])
    if code == KlingUncertain.code:
        raise KlingUncertain(message, remedy=remedy, external_task_id=fields["external_task_id"])
    raise _SIMPLE.get(code, CallLost)(message, remedy=remedy)


class _Create(msgspec.Struct, kw_only=True):
    """A gateway client's create. Of its headers only those that are forwarded to Kling are stored."""

    endpoint: str
    label: str | None
    tags: dict[str, str]
    batch: str | None
    batch_size: int | None
    query: str
    headers: dict[str, str]
    client: str
    key: str | None


def encode_create(
    endpoint: endpoints.Endpoint, body: bytes, metadata: TaskMetadata, pass_through: PassThrough, caller: Caller
) -> bytes:
    """Return a gateway client's create as the arguments of a call."""
    create = _Create(
        endpoint=endpoint.path,
        label=metadata.label,
        tags=dict(metadata.tags),
        batch=metadata.batch,
        batch_size=metadata.batch_size,
        query=pass_through.query,
        headers=dict(pass_through.forwarded_headers()),
        client=caller.client,
        key=caller.key,
    )
    return msgspec.json.encode(create) + b"\n" + body


def decode_create(arguments: bytes) -> tuple[endpoints.Endpoint, bytes, TaskMetadata, PassThrough, Caller]:
    """Return the create in the arguments of a call; its caller neither has left nor stops. Raises CallLost."""
    head, _, body = arguments.partition(b"\n")
    create = msgspec.json.decode(head, type=_Create)
    endpoint = endpoints.resolve(create.endpoint)
    if endpoint is None:
        raise CallLost(f"This node's version does not know the endpoint {create.endpoint!r}.")
    metadata = TaskMetadata(label=create.label, tags=create.tags, batch=create.batch, batch_size=create.batch_size)
    pass_through = PassThrough(query=create.query, headers=create.headers)
    return endpoint, body, metadata, pass_through, Caller(client=create.client, key=create.key)


class _Response(msgspec.Struct):
    """The head of Kling's answer."""

    status: int
    headers: dict[str, str]


def encode_response(response: KlingResponse) -> bytes:
    """Return Kling's answer as the answer of a call."""
    head = _Response(status=response.status, headers=dict(response.headers))
    return msgspec.json.encode(head) + b"\n" + response.body


def decode_response(answer: bytes) -> KlingResponse:
    """Return Kling's answer in the answer of a call."""
    head, _, body = answer.partition(b"\n")
    found = msgspec.json.decode(head, type=_Response)
    return KlingResponse(status=found.status, headers=found.headers, body=body)


class RouteChange(msgspec.Struct, kw_only=True):
    """An operator's change of a route."""

    route: str
    why: str
    actor: str


def encode_route_change(change: RouteChange) -> bytes:
    """Return an operator's change of a route as the arguments of a call."""
    return msgspec.json.encode(change)


def decode_route_change(arguments: bytes) -> RouteChange:
    """Return the change of a route in the arguments of a call."""
    return msgspec.json.decode(arguments, type=RouteChange)


def encode_route_state(state: RouteState) -> bytes:
    """Return a route's state as the answer of a call."""
    return msgspec.json.encode(state)


def decode_route_state(answer: bytes) -> RouteState:
    """Return a route's state in the answer of a call."""
    return msgspec.json.decode(answer, type=RouteState)
