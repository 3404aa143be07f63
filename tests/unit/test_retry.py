"""What follows an attempt for its delivery."""

from datetime import timedelta
from random import Random

import pytest
from harness.clock import START
from harness.factories import at

from receiver.delivery.retry import JITTER, RetryPolicy, effective_age
from receiver.delivery.route_hold import PROBE_INTERVAL
from receiver.domain.model import Accepted, DeliveryStatus, Failed, Outcome, Refused, RouteState, Verdict
from receiver.net.retry_after import MAX_RETRY_AFTER

POLICY = RetryPolicy(
    schedule=(timedelta(seconds=5), timedelta(seconds=30), timedelta(hours=1)), give_up_after=timedelta(hours=96)
)


FAILED = Failed(reason="500", code=500)
REJECTED = Failed(reason="422", code=422, is_about_event=True)


def decide(outcome: Outcome, *, attempt: int = 1, age: timedelta = timedelta(), held: bool = False) -> Verdict:
    return POLICY.decide(outcome, attempt=attempt, age=age, held=held, now=START, rng=Random(7))


def test_an_accepted_event_is_delivered() -> None:
    verdict = decide(Accepted(code=204))

    assert verdict.status is DeliveryStatus.DELIVERED
    assert verdict.finished_at == START


@pytest.mark.parametrize(("attempt", "planned"), [(1, 5), (2, 30), (3, 3600), (4, 3600), (90, 3600)])
def test_waits_follow_the_schedule_and_its_last_one_repeats(attempt: int, planned: int) -> None:
    wait = (decide(Failed(reason="500"), attempt=attempt).due_at - START).total_seconds()

    assert planned * (1 - JITTER) <= wait <= planned * (1 + JITTER)


def test_retry_after_may_extend_a_wait_up_to_a_limit() -> None:
    verdict = decide(Failed(reason="busy", retry_after=timedelta(minutes=10)))
    too_long = decide(Failed(reason="busy", retry_after=timedelta(days=10)))

    assert verdict.due_at == START + timedelta(minutes=10)
    assert too_long.due_at == START + MAX_RETRY_AFTER


def test_retry_after_never_shortens_a_wait() -> None:
    assert decide(Failed(reason="busy", retry_after=timedelta(0))).due_at > START


def test_a_delivery_that_failed_for_too_long_dies() -> None:
    verdict = decide(Failed(reason="500"), age=timedelta(hours=96))

    assert verdict.status is DeliveryStatus.DEAD


def test_a_failed_probe_waits_for_the_next_until_its_delivery_is_too_old() -> None:
    for outcome in (FAILED, REJECTED, Refused(reason="410", hold=True)):
        verdict = decide(outcome, age=timedelta(hours=95), held=True)
        assert (verdict.status, verdict.due_at) == (DeliveryStatus.PENDING, START + PROBE_INTERVAL)

        assert decide(outcome, age=timedelta(hours=96), held=True).status is DeliveryStatus.DEAD


def test_an_absent_destination_does_not_use_up_waiting_deliveries() -> None:
    gone = Refused(reason="410", hold=True)

    assert decide(gone, held=False).status is DeliveryStatus.DEAD
    assert decide(gone, held=True).status is DeliveryStatus.PENDING
    assert decide(Refused(reason="exit 65"), held=True).status is DeliveryStatus.DEAD


def test_the_time_in_a_held_route_does_not_count() -> None:
    released = RouteState(name="publish", released_at=at(100))

    assert effective_age(at(0), RouteState(name="publish"), FAILED, now=at(300)) == timedelta(seconds=300)
    assert effective_age(at(0), released, FAILED, now=at(300)) == timedelta(seconds=200)
    assert effective_age(at(200), released, FAILED, now=at(300)) == timedelta(seconds=100)


def test_a_release_gives_no_time_to_an_event_that_is_rejected() -> None:
    released = RouteState(name="publish", released_at=at(100))

    assert effective_age(at(0), released, REJECTED, now=at(300)) == timedelta(seconds=300)


def test_a_refused_event_is_dead_at_once() -> None:
    assert decide(Refused(reason="410 Gone", hold=True)).status is DeliveryStatus.DEAD
