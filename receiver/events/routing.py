"""Which routes an event matches. Pure, compiled once at load. A condition that cannot be evaluated does not match."""

import json
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

import msgspec

from receiver.domain.model import Json, RouteDecision

WILDCARD = "*"

_encode_result = json.JSONEncoder(ensure_ascii=False, default=repr).encode  # also what no UTF-8 can express
_encode = msgspec.json.Encoder().encode


class Condition(Protocol):
    """A compiled JMESPath expression."""

    def search(self, value: Json) -> object:
        """Evaluate the expression on *value*."""
        ...


class RouteRule(Protocol):
    """The part of a route's configuration that routing uses."""

    @property
    def name(self) -> str:
        """The route's name."""
        ...

    @property
    def on(self) -> frozenset[str]:
        """The kinds of events that the route receives."""
        ...

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Glob patterns of endpoints; empty means all."""
        ...

    @property
    def unverified(self) -> bool:
        """Whether the route accepts events that cannot be confirmed."""
        ...

    @property
    def where(self) -> str | None:
        """A JMESPath expression that must be true; None means always."""
        ...


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An event before routing.

    ``data`` returns the event's data including Kling's body. It is called only if a route has a condition.
    ``trusted`` means that the event meets ``[callbacks] verify``.
    """

    type: str
    endpoint: str | None
    trusted: bool
    data: Callable[[], Json]

    @property
    def kind(self) -> str:
        """The event's kind as in a route's ``on``: a task's state, ``batch``, ``report`` or ``alert``."""
        family, _, name = self.type.partition(".")
        return name if family == "task" else family


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the configuration, compiled."""

    name: str
    on: frozenset[str]
    endpoints: tuple[str, ...]
    unverified: bool
    where: str | None
    condition: Condition | None

    def decide(self, candidate: Candidate) -> RouteDecision:
        """Decide whether this route receives the event."""
        reason = self._mismatch_reason(candidate)
        return RouteDecision(route=self.name, wanted=not reason, reason=reason or "all conditions hold")

    def _mismatch_reason(self, candidate: Candidate) -> str:
        if WILDCARD not in self.on and candidate.kind not in self.on:
            return f"on = {_as_written(sorted(self.on))} does not name {_as_written(candidate.kind)}"
        if self.endpoints and not _matches(candidate.endpoint, self.endpoints):
            return f"endpoints = {_as_written(self.endpoints)} does not match {_as_written(candidate.endpoint)}"
        if not candidate.trusted and not self.unverified:
            return "the event cannot be confirmed, and the route does not accept unverified events"
        if self.condition is not None:
            return self._condition_mismatch_reason(self.condition, candidate)
        return ""

    def _condition_mismatch_reason(self, condition: Condition, candidate: Candidate) -> str:
        try:
            value = condition.search(candidate.data())
        except Exception as exc:  # noqa: BLE001 -- an expression that fails on an unexpected body does not match
            return f"where = {_as_written(self.where)} could not be evaluated: {exc}"
        if value is True:
            return ""
        return f"where = {_as_written(self.where)} gave {_encode_result(value):.80}, not true"


class RouteTable:
    """All routes of the configuration."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)

    def decide(self, candidate: Candidate) -> Sequence[RouteDecision]:
        """Return every route's decision on an event."""
        return [route.decide(candidate) for route in self._routes]


def compile_routes(settings: Sequence[RouteRule]) -> RouteTable:
    """Compile the routes of the configuration."""
    return RouteTable(compile_route(route) for route in settings)


def compile_route(route: RouteRule) -> Route:
    """Compile one route of the configuration."""
    condition = None
    if route.where is not None:
        import jmespath  # noqa: PLC0415 -- a slow import that only conditions need

        condition = jmespath.compile(route.where)
    return Route(
        name=route.name,
        on=route.on,
        endpoints=route.endpoints,
        unverified=route.unverified,
        where=route.where,
        condition=condition,
    )


def _as_written(value: object) -> str:
    """Return a value as the configuration writes it."""
    return _encode(value).decode()


def _matches(endpoint: str | None, globs: tuple[str, ...]) -> bool:
    return endpoint is not None and any(fnmatchcase(endpoint, glob) for glob in globs)
