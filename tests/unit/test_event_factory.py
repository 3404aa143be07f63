"""An event has one delivery per matching route, and every route's decision."""

from collections.abc import Sequence
from typing import Any

import pytest
from harness.clock import START, FakeClock
from harness.factories import a_status_report, a_task

from receiver.domain.clock import Ids
from receiver.domain.model import Source, TaskState, Verification
from receiver.events.factory import EventFactory, RoutedEvent
from receiver.events.routing import compile_routes
from receiver.settings import RouteSettings, ScriptSettings


def a_route(name: str, **changes: Any) -> RouteSettings:
    return RouteSettings(name=name, script=ScriptSettings(command=("/bin/true",)), **changes)


def make_event(
    *routes: RouteSettings, source: Source = Source.CALLBACK, trusted: bool = True, **task: Any
) -> RoutedEvent:
    event_factory = EventFactory(compile_routes(routes), Ids(FakeClock()))
    return event_factory.task_event(
        a_task(state=TaskState.SUCCEED, **task),
        a_status_report("succeed"),
        b'{"task_status":"succeed"}',
        source=source,
        verified=Verification.API,
        trusted=trusted,
        at=START,
    )


def decisions(routed: RoutedEvent) -> Sequence[tuple[str, bool, str]]:
    return [(decision.route, decision.wanted, decision.reason) for decision in routed.event.decisions]


def test_every_routes_decision_is_kept_with_its_reason() -> None:
    routed = make_event(
        a_route("a"), a_route("b", on=frozenset({"failed"})), a_route("c", where="kling.task_status == 'failed'")
    )

    assert decisions(routed) == [
        ("a", True, "all conditions hold"),
        ("b", False, 'on = ["failed"] does not name "succeed"'),
        ("c", False, "where = \"kling.task_status == 'failed'\" gave false, not true"),
    ]
    assert [delivery.route for delivery in routed.deliveries] == ["a"]


@pytest.mark.parametrize(
    ("source", "trusted", "wanted", "reason"),
    [
        (Source.CALLBACK, True, True, "the client requested it with its callback_url"),
        (Source.POLL, True, True, "the client requested it with its callback_url"),
        (Source.CALLBACK, False, False, "the event cannot be confirmed"),
        (Source.SUBMIT, True, False, "the client received it as the answer to its own call"),
        (Source.RECEIVER, True, False, "the receiver made this event, and the client expects Kling's own callbacks"),
    ],
)
def test_a_clients_own_url_receives_klings_trusted_reports_only(
    source: Source, trusted: bool, wanted: bool, reason: str
) -> None:
    routed = make_event(source=source, trusted=trusted, reply_to="https://user:pw@client.example/hook?key=secret")

    assert decisions(routed) == [("reply:client.example", wanted, reason)]
    assert [delivery.route for delivery in routed.deliveries] == (["reply:client.example"] if wanted else [])


def test_an_alert_keeps_its_decisions() -> None:
    event_factory = EventFactory(
        compile_routes([a_route("a"), a_route("b", on=frozenset({"alert"}))]), Ids(FakeClock())
    )

    routed = event_factory.alert("route_held", {"route": "a"}, at=START)

    assert [(route, wanted) for route, wanted, _ in decisions(routed)] == [("a", False), ("b", True)]
