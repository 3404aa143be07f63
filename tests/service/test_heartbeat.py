"""The heartbeat: sent while all is well, and its URL in no log line."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness.clock import START, FakeClock
from harness.logs import capture_logs
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.domain.api_schema.resources import Check
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import HeldBy, RouteState
from receiver.domain.secret import Secret
from receiver.net.http_client import HttpClient
from receiver.service.heartbeat import INTERVAL, Heartbeat
from receiver.settings import Address

PATH = "/2a94dee1-0b52-4f0f-9d2e-secret"


@dataclass
class Monitor:
    """Stands in for the monitor, and for the parts of the service."""

    status: int = 200
    requests: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=lambda: [Check(name="store", ok=True)])
    held: set[str] = field(default_factory=set)
    store_error: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests.append(f"{request.method} {request.url.path}")
        await Response(status_code=self.status)(scope, receive, send)

    async def readiness(self) -> list[Check]:
        return self.checks

    async def route_states(self) -> dict[str, RouteState]:
        return {name: RouteState(name=name, held_at=START, held_by=HeldBy.FAILURES) for name in self.held}

    async def commit(self) -> None:
        if self.store_error:
            raise StoreUnavailable(self.store_error)


@pytest.fixture
def monitor() -> Monitor:
    return Monitor()


@pytest.fixture
async def heartbeat(serve: Callable[..., Awaitable[Address]], monitor: Monitor) -> Any:
    client = HttpClient(user_agent="kling-receiver/test")
    yield Heartbeat(
        Secret(f"http://{await serve(monitor)}{PATH}"),
        client,
        readiness=monitor.readiness,
        commit=monitor.commit,
        route_states=monitor.route_states,
        alert_routes=lambda: ["on-call"],
        clock=FakeClock(),
    )
    await client.aclose()


async def test_a_heartbeat_is_sent_while_there_is_no_fault(heartbeat: Heartbeat, monitor: Monitor) -> None:
    assert await heartbeat.beat() == ""
    assert monitor.requests == [f"GET {PATH}"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"checks": [Check(name="poller", ok=False, reason="This part has ended.")]}, "poller is not ready: This part"),
        ({"checks": [Check(name="public", ok=False)]}, "public is not ready"),
        ({"held": {"on-call"}}, "route on-call receives alerts and is held"),
        ({"store_error": "The disk is full."}, "The disk is full."),
    ],
)
async def test_no_heartbeat_is_sent_during_a_fault(
    heartbeat: Heartbeat, monitor: Monitor, fault: dict[str, Any], reason: str
) -> None:
    for name, value in fault.items():
        setattr(monitor, name, value)

    assert (await heartbeat.beat()).startswith(reason)
    assert monitor.requests == []


async def test_other_held_routes_do_not_stop_the_heartbeat(heartbeat: Heartbeat, monitor: Monitor) -> None:
    monitor.held = {"app"}

    assert await heartbeat.beat() == ""


async def test_an_error_of_the_monitor_names_its_host_alone(heartbeat: Heartbeat, monitor: Monitor) -> None:
    monitor.status = 404

    assert await heartbeat.beat() == "127.0.0.1 answered 404"


async def test_a_monitor_that_is_down_is_reported_without_the_url() -> None:
    client = HttpClient(user_agent="kling-receiver/test")
    monitor = Monitor()
    heartbeat = Heartbeat(
        Secret(f"http://127.0.0.1:9{PATH}"),
        client,
        readiness=monitor.readiness,
        commit=monitor.commit,
        route_states=monitor.route_states,
        alert_routes=list,
        clock=FakeClock(),
    )

    reason = await heartbeat.beat()
    await client.aclose()

    assert reason.startswith("127.0.0.1 was not reached: ")
    assert PATH not in reason


async def test_the_log_says_once_that_the_heartbeat_stopped_and_resumed(heartbeat: Heartbeat, monitor: Monitor) -> None:
    outcomes = [{"on-call"}, {"on-call"}, set(), set()]
    with capture_logs() as logs:
        for held in outcomes:
            monitor.held = held
            await heartbeat.step(is_starting=False)

    assert [line["event"] for line in logs] == ["heartbeat.stopped", "heartbeat.resumed"]
    assert PATH not in str(logs)


async def test_parts_that_are_still_starting_do_not_count_as_faults(heartbeat: Heartbeat, monitor: Monitor) -> None:
    monitor.checks = [Check(name="public", ok=False)]
    with capture_logs() as logs:
        first = await heartbeat.step(is_starting=True)
        monitor.checks = []
        second = await heartbeat.step(is_starting=True)

    assert (first.total_seconds(), second) == (1, INTERVAL)
    assert (logs, len(monitor.requests)) == ([], 1)
