"""What follows an attempt, for the delivery and for its route."""

from datetime import timedelta
from random import Random

import pytest
from support import START

from receiver.model import Accepted, DeliveryStatus, Failed, Outcome, Refused, RouteState, Verdict
from receiver.retry import HOLD_AFTER, JITTER, LONGEST_RETRY_AFTER, PROBE_EVERY, Pace, RetryPolicy, after_attempt

POLICY = RetryPolicy(
    schedule=(timedelta(seconds=5), timedelta(seconds=30), timedelta(hours=1)), give_up_after=timedelta(hours=96)
)


def judge(outcome: Outcome, *, attempt: int = 1, age: timedelta = timedelta(), held: bool = False) -> Verdict:
    return POLICY.judge(outcome, attempt=attempt, age=age, held=held, now=START, rng=Random(7))


def test_an_accepted_event_is_delivered() -> None:
    verdict = judge(Accepted(code=204))

    assert verdict.status is DeliveryStatus.DELIVERED
    assert verdict.finished_at == START


@pytest.mark.parametrize(("attempt", "planned"), [(1, 5), (2, 30), (3, 3600), (4, 3600), (90, 3600)])
def test_waits_follow_the_schedule_and_its_last_one_repeats(attempt: int, planned: int) -> None:
    wait = (judge(Failed(reason="500"), attempt=attempt).due_at - START).total_seconds()

    assert planned * (1 - JITTER) <= wait <= planned * (1 + JITTER)


def test_a_destination_may_ask_for_a_longer_wait_but_not_for_ever() -> None:
    asked = judge(Failed(reason="busy", retry_after=timedelta(minutes=10)))
    too_long = judge(Failed(reason="busy", retry_after=timedelta(days=10)))

    assert asked.due_at == START + timedelta(minutes=10)
    assert too_long.due_at == START + LONGEST_RETRY_AFTER


def test_a_destination_cannot_ask_to_be_hurried() -> None:
    assert judge(Failed(reason="busy", retry_after=timedelta(0))).due_at > START


def test_a_delivery_that_failed_for_too_long_dies() -> None:
    verdict = judge(Failed(reason="500"), age=timedelta(hours=96))

    assert verdict.status is DeliveryStatus.DEAD


def test_nothing_dies_of_age_in_a_held_route() -> None:
    verdict = judge(Failed(reason="500"), age=timedelta(days=30), held=True)

    assert verdict.status is DeliveryStatus.PENDING
    assert verdict.due_at == START + PROBE_EVERY


def test_a_refused_event_is_dead_at_once() -> None:
    assert judge(Refused(reason="410 Gone", hold=True)).status is DeliveryStatus.DEAD


def test_a_route_is_held_after_failures_in_a_row_and_the_first_success_releases_it() -> None:
    state = RouteState(name="publish")
    for _ in range(HOLD_AFTER - 1):
        state = after_attempt(state, Failed(reason="500"), now=START)
    assert state.held_at is None

    held = after_attempt(state, Failed(reason="no answer"), now=START)
    released = after_attempt(held, Accepted(), now=START)

    assert held.held_at == START
    assert held.held_why == "no answer"
    assert released == RouteState(name="publish")


def test_a_success_between_failures_starts_the_count_anew() -> None:
    state = RouteState(name="publish", failures=HOLD_AFTER - 1)

    state = after_attempt(state, Accepted(), now=START)
    state = after_attempt(state, Failed(reason="500"), now=START)

    assert state.failures == 1


def test_an_event_refused_for_itself_says_nothing_about_its_route() -> None:
    before = RouteState(name="publish", failures=2)

    assert after_attempt(before, Refused(reason="exit 65"), now=START) == before


def test_a_destination_that_is_gone_holds_its_route_at_once() -> None:
    assert after_attempt(RouteState(name="publish"), Refused(reason="410", hold=True), now=START).held_at == START


def test_a_pace_lets_a_full_burst_through_and_then_its_rate() -> None:
    pace = Pace(count=10, per=timedelta(seconds=1))

    pace.take(pace.allowance(START))
    later = START + timedelta(milliseconds=350)

    assert pace.allowance(START) == 0
    assert pace.next_at(START) == START + timedelta(milliseconds=100)
    assert pace.allowance(later) == 3
