"""Which routes want an event. Pure, compiled once at load; a condition that cannot be judged means no."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol
from urllib.parse import urlsplit

from receiver.domain.model import Json, RouteDecision

WILDCARD = "*"
REPLY_PREFIX = "reply:"


class Condition(Protocol):
    """A compiled JMESPath expression."""

    def search(self, value: Json) -> object:
        """Evaluate the expression on *value*."""
        ...


class RouteRule(Protocol):
    """What routing reads of a route's configuration."""

    @property
    def name(self) -> str:
        """The route's name."""
        ...

    @property
    def on(self) -> frozenset[str]:
        """The kinds of events that the route wants."""
        ...

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Globs of endpoints; empty means all."""
        ...

    @property
    def unverified(self) -> bool:
        """Whether the route takes events that cannot be confirmed."""
        ...

    @property
    def where(self) -> str | None:
        """A JMESPath expression that must be true; None means always."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An event on its way to the routes.

    ``data`` gives the event's data with Kling's body in it; it is called only where a condition asks for it.
    ``trusted`` says that what ``[callbacks] verify`` demands of such an event is fulfilled.
    """

    type: str
    endpoint: str | None
    trusted: bool
    data: Callable[[], Json]

    @property
    def kind(self) -> str:
        """The word by which a route's ``on`` asks for it: a task's state, ``batch`` or ``alert``."""
        family, _, what = self.type.partition(".")
        return what if family == "task" else family


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule of the configuration, ready to be asked."""

    name: str
    on: frozenset[str]
    endpoints: tuple[str, ...]
    unverified: bool
    where: str | None
    condition: Condition | None

    def decide(self, candidate: Candidate) -> RouteDecision:
        """Decide whether the event goes to this route."""
        reason = self._mismatch_reason(candidate)
        return RouteDecision(route=self.name, wanted=not reason, reason=reason or "all conditions hold")

    def _mismatch_reason(self, candidate: Candidate) -> str:
        if WILDCARD not in self.on and candidate.kind not in self.on:
            return f"on = {sorted(self.on)} does not name {candidate.kind!r}"
        if self.endpoints and not _matches(candidate.endpoint, self.endpoints):
            return f"endpoints = {list(self.endpoints)} does not match {candidate.endpoint!r}"
        if not candidate.trusted and not self.unverified:
            return "nobody can confirm the event, and the route does not take unverified ones"
        if self.condition is not None:
            return self._condition_mismatch_reason(self.condition, candidate)
        return ""

    def _condition_mismatch_reason(self, condition: Condition, candidate: Candidate) -> str:
        try:
            verdict = condition.search(candidate.data())
        except Exception as exc:  # noqa: BLE001 -- whatever an expression does on a strange body, the answer is no
            return f"where = {self.where!r} could not be judged: {exc}"
        if verdict is True:
            return ""
        return f"where = {self.where!r} gave {verdict!r:.80}, not true"


class RouteTable:
    """All routes of the configuration."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)

    def decide(self, candidate: Candidate) -> Sequence[RouteDecision]:
        """Ask every route about an event."""
        return [route.decide(candidate) for route in self._routes]


def compile_routes(settings: Sequence[RouteRule]) -> RouteTable:
    """Make the routes of the configuration ready to be asked."""
    return RouteTable(_compile(route) for route in settings)


def reply_route(url: str) -> str:
    """Name the lane in which events for a client's own callback *url* travel: one lane per host."""
    return REPLY_PREFIX + urlsplit(url).netloc.rpartition("@")[2].lower()


def _compile(route: RouteRule) -> Route:
    condition = None
    if route.where is not None:
        import jmespath  # noqa: PLC0415 -- costs start-up time that only conditions should pay

        condition = jmespath.compile(route.where)
    return Route(
        name=route.name,
        on=route.on,
        endpoints=route.endpoints,
        unverified=route.unverified,
        where=route.where,
        condition=condition,
    )


def _matches(endpoint: str | None, globs: tuple[str, ...]) -> bool:
    return endpoint is not None and any(fnmatchcase(endpoint, glob) for glob in globs)
