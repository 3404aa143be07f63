"""When a route is held, probed and released."""

from datetime import timedelta

from harness.clock import START
from harness.factories import at

from receiver.delivery.route_hold import HOLD_AFTER, HOLD_DELIVERIES, hold, next_route_state, release
from receiver.domain.model import Accepted, Failed, HeldBy, Outcome, Refused, RouteState
from receiver.net.retry_after import MAX_RETRY_AFTER

FAILED = Failed(reason="500", code=500)
REJECTED = Failed(reason="422", code=422, is_about_event=True)


def state_after(
    route: RouteState, outcome: Outcome, *, seconds: float = 0, took: float = 0, delivery: str = "dlv_1"
) -> RouteState:
    return next_route_state(route, outcome, delivery_id=delivery, started_at=at(seconds), now=at(seconds + took))


def failing_state(times: int = HOLD_AFTER, *, reason: str = "500") -> RouteState:
    state = RouteState(name="publish")
    for number in range(times):
        state = state_after(state, Failed(reason=reason), delivery=f"dlv_{number}")
    return state


def test_consecutive_failures_hold_a_route_and_a_success_releases_it() -> None:
    state = failing_state(HOLD_AFTER - 1)
    assert not state.is_held

    held = state_after(state, Failed(reason="no answer"))
    released = state_after(held, Accepted(), seconds=60)

    assert (held.held_at, held.held_by, held.held_why) == (START, HeldBy.FAILURES, "no answer")
    assert released == RouteState(name="publish", released_at=at(60))


def test_a_route_is_held_for_several_deliveries_and_not_for_the_attempts_of_few() -> None:
    state = RouteState(name="publish")
    for number in range(100):
        state = state_after(state, FAILED, delivery=f"dlv_{number % (HOLD_DELIVERIES - 1)}")
    assert not state.is_held

    assert state_after(state, FAILED, delivery="dlv_of_another_event").is_held


def test_a_rejected_event_does_not_count_as_a_failure_of_its_route() -> None:
    state = failing_state(HOLD_AFTER - 1)

    rejected = state_after(state, REJECTED, delivery="dlv_9")

    assert (rejected.failures, rejected.failing, rejected.is_held) == (state.failures, state.failing, False)
    assert rejected.rejected == {"dlv_9"}


def test_a_success_between_failures_restarts_the_count() -> None:
    failing = state_after(failing_state(HOLD_AFTER - 1), REJECTED)

    state = state_after(state_after(failing, Accepted()), Failed(reason="500"))

    assert state == RouteState(name="publish", failures=1, failing=frozenset({"dlv_1"}))


def test_a_success_of_a_healthy_route_changes_nothing() -> None:
    before = RouteState(name="publish", released_at=START)

    assert state_after(before, Accepted(), seconds=60) == before


def test_probes_begin_a_minute_apart_however_long_each_takes() -> None:
    held = failing_state()

    assert held.probe_at == at(60)
    assert state_after(held, Failed(reason="500"), seconds=60, took=15).probe_at == at(120)
    assert state_after(held, Refused(reason="exit 65"), seconds=60).probe_at == at(120)


def test_a_probe_respects_retry_after() -> None:
    held = failing_state()

    patient = state_after(held, Failed(reason="503", retry_after=timedelta(minutes=10)), seconds=60, took=1)
    too_long = state_after(held, Failed(reason="503", retry_after=timedelta(days=3)), seconds=60)

    assert patient.probe_at == at(661)
    assert too_long.probe_at == at(60) + MAX_RETRY_AFTER


def test_attempts_in_flight_at_the_hold_do_not_advance_the_probe() -> None:
    held = state_after(failing_state(), Failed(reason="503", retry_after=timedelta(minutes=10)))

    assert state_after(held, Failed(reason="500"), seconds=-5, took=6).probe_at == held.probe_at
    assert state_after(held, Failed(reason="500"), seconds=-5, took=6).held_at == START


def test_an_event_refused_for_its_content_does_not_count_for_the_route() -> None:
    before = RouteState(name="publish", failures=2)

    assert state_after(before, Refused(reason="exit 65")) == before


def test_a_destination_that_is_gone_holds_its_route_at_once() -> None:
    held = state_after(RouteState(name="publish"), Refused(reason="410", hold=True))

    assert (held.held_by, held.failures, held.probe_at) == (HeldBy.FAILURES, 1, at(60))


def test_only_an_operator_releases_an_operators_hold() -> None:
    held = hold(failing_state(2), "maintenance", now=at(1))

    delivered, failed = state_after(held, Accepted(), seconds=2), state_after(held, Failed(reason="500"), seconds=2)

    assert (held.held_by, held.held_why, held.held_at) == (HeldBy.OPERATOR, "maintenance", at(1))
    assert delivered.held_by is failed.held_by is HeldBy.OPERATOR
    assert delivered.probe_at is failed.probe_at is None
    assert release(held, now=at(9)) == RouteState(name="publish", released_at=at(9))


def test_an_operator_may_take_over_a_hold_by_failures() -> None:
    held = hold(failing_state(), "they are moving house", now=at(30))

    assert (held.held_by, held.held_at, held.probe_at) == (HeldBy.OPERATOR, START, None)
