"""What a node does through the holder of a duty: creates of gateway clients, and holds and releases of routes.

On the holder itself nothing is stored and nothing waits: the service is called as by the only process.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from msgspec.structs import replace

from receiver.domain.duties import Duty, Tenure
from receiver.domain.errors import CallLost, DutyLost, KlingUncertain
from receiver.domain.model import RouteState
from receiver.kling.client import KlingResponse
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.service.nodes.call_codec import (
    RouteChange,
    decode_create,
    decode_response,
    decode_route_change,
    decode_route_state,
    encode_create,
    encode_response,
    encode_route_change,
    encode_route_state,
)
from receiver.service.nodes.calls import Handler, NodeCalls, RemoteCaller
from receiver.submission.request import Caller, TaskMetadata

CREATE, HOLD, RELEASE = "create", "hold", "release"
_NO_METADATA = TaskMetadata()
_UNKNOWN_CALLER = Caller()
_LOST = "It is unknown whether Kling has the task; it is being looked up. Repeat it with an Idempotency-Key."


class Creates(Protocol):
    """Sends gateway clients' creates."""

    async def submit_now(
        self, endpoint: Endpoint, body: bytes, metadata: TaskMetadata, pass_through: PassThrough, caller: Caller
    ) -> KlingResponse:
        """Forward a client's create and return Kling's answer."""
        ...


class Routes(Protocol):
    """Holds and releases routes."""

    async def hold(self, route: str, *, why: str, actor: str) -> RouteState:
        """Hold a route until an operator releases it."""
        ...

    async def release(self, route: str, *, why: str, actor: str) -> RouteState:
        """Release a route, however it was held."""
        ...


class NodeCreates:
    """Sends gateway clients' creates from the node that submits tasks."""

    def __init__(self, local: Creates, calls: NodeCalls, tenure: Tenure) -> None:
        self._local = local
        self._calls = calls
        self._tenure = tenure

    async def submit_now(
        self,
        endpoint: Endpoint,
        body: bytes,
        metadata: TaskMetadata = _NO_METADATA,
        pass_through: PassThrough = NO_PASS_THROUGH,
        caller: Caller = _UNKNOWN_CALLER,
    ) -> KlingResponse:
        """Forward a client's create and return Kling's answer, or the first one's if the client repeats it."""
        if self._tenure.is_held:
            with suppress(DutyLost):  # nothing is stored: the node that has the duty now sends it
                return await self._local.submit_now(endpoint, body, metadata, pass_through, caller)
        arguments = encode_create(endpoint, body, metadata, pass_through, caller)
        try:
            answer = await self._calls.call(
                Duty.KLING, CREATE, arguments, has_left=lambda: caller.has_left() or caller.is_stopping()
            )
        except CallLost as exc:
            raise KlingUncertain(f"{exc.message} {_LOST}", remedy=exc.remedy) from exc
        return decode_response(answer)


class NodeRoutes:
    """Holds and releases routes on the node that delivers."""

    def __init__(self, local: Routes, calls: NodeCalls, tenure: Tenure) -> None:
        self._local = local
        self._calls = calls
        self._tenure = tenure

    async def hold(self, route: str, *, why: str, actor: str) -> RouteState:
        """Hold a route until an operator releases it."""
        return await self._change(HOLD, self._local.hold, RouteChange(route=route, why=why, actor=actor))

    async def release(self, route: str, *, why: str, actor: str) -> RouteState:
        """Release a route, however it was held."""
        return await self._change(RELEASE, self._local.release, RouteChange(route=route, why=why, actor=actor))

    async def _change(
        self, kind: str, change_here: Callable[..., Awaitable[RouteState]], change: RouteChange
    ) -> RouteState:
        if self._tenure.is_held:
            return await change_here(change.route, why=change.why, actor=change.actor)
        return decode_route_state(await self._calls.call(Duty.DELIVERING, kind, encode_route_change(change)))


def create_handlers(creates: Creates) -> Mapping[str, Handler]:
    """Return what serves other nodes' calls for creates."""

    async def create(arguments: bytes, remote: RemoteCaller) -> bytes:
        endpoint, body, metadata, pass_through, known = decode_create(arguments)
        caller = replace(known, has_left=remote.has_left, is_stopping=remote.is_stopping)
        return encode_response(await creates.submit_now(endpoint, body, metadata, pass_through, caller))

    return {CREATE: create}


def route_handlers(routes: Routes) -> Mapping[str, Handler]:
    """Return what serves other nodes' calls for changes of routes."""

    def handler(change_here: Callable[..., Awaitable[RouteState]]) -> Handler:
        async def serve(arguments: bytes, _remote: RemoteCaller) -> bytes:
            change = decode_route_change(arguments)
            return encode_route_state(await change_here(change.route, why=change.why, actor=change.actor))

        return serve

    return {HOLD: handler(routes.hold), RELEASE: handler(routes.release)}
