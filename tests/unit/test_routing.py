"""Which routes an event matches. A condition that cannot be evaluated does not match."""

from typing import Any

import pytest

from receiver.domain.model import RouteDecision
from receiver.events.replies import reply_route
from receiver.events.routing import Candidate, compile_routes
from receiver.settings import RouteSettings, ScriptSettings


def decide(candidate: Candidate, **route: Any) -> RouteDecision:
    settings = RouteSettings(name="publish", script=ScriptSettings(command=("/bin/true",)), **route)
    (decision,) = compile_routes([settings]).decide(candidate)
    return decision


def a_candidate(type_: str = "task.succeed", *, endpoint: str | None = "images/generations", trusted: bool = True,
                data: dict[str, Any] | None = None) -> Candidate:  # fmt: skip
    return Candidate(type=type_, endpoint=endpoint, trusted=trusted, data=lambda: data or {})


@pytest.mark.parametrize(
    ("type_", "on", "wanted"),
    [
        ("task.succeed", None, True),
        ("task.failed", None, False),
        ("task.failed", ["failed"], True),
        ("task.processing", ["*"], True),
        ("alert.route_held", ["alert"], True),
        ("alert.route_held", ["succeed"], False),
    ],
)
def test_a_route_matches_events_by_kind(type_: str, on: list[str] | None, wanted: bool) -> None:
    route = {} if on is None else {"on": frozenset(on)}

    assert decide(a_candidate(type_), **route).wanted is wanted


@pytest.mark.parametrize(
    ("endpoint", "wanted"), [("images/generations", True), ("videos/text2video", False), (None, False)]
)
def test_a_route_matches_endpoints_by_glob(endpoint: str | None, wanted: bool) -> None:
    assert decide(a_candidate(endpoint=endpoint), endpoints=("images/*",)).wanted is wanted


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("task.tags.project == 'ads'", True),
        ("task.tags.project == 'film'", False),
        ("task.tags.project", False),
        ("task.nothing.here", False),
        ("length(task.nothing) > `3`", False),
        ("kling.task_status == 'succeed'", True),
    ],
)
def test_a_condition_must_be_exactly_true(where: str, wanted: bool) -> None:
    data = {"task": {"tags": {"project": "ads"}}, "kling": {"task_status": "succeed"}}

    decision = decide(a_candidate(data=data), where=where)

    assert decision.wanted is wanted
    assert decision.wanted or "where" in decision.reason


@pytest.mark.parametrize(("unverified", "wanted"), [(False, False), (True, True)])
def test_an_unconfirmed_event_needs_a_route_that_accepts_it(unverified: bool, wanted: bool) -> None:
    assert decide(a_candidate(trusted=False), unverified=unverified).wanted is wanted


def test_a_mismatch_has_its_reason() -> None:
    assert 'does not name "failed"' in decide(a_candidate("task.failed")).reason


def test_client_urls_of_one_host_share_a_lane() -> None:
    assert reply_route("https://user:pw@App.example.com:8443/hook?x=1") == "reply:app.example.com:8443"
