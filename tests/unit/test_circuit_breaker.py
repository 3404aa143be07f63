"""How long somebody who cannot serve is left alone."""

from datetime import timedelta

from harness.factories import at
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.circuit_breaker import CircuitBreaker

CALL = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)


def test_while_calls_succeed_all_are_let_through() -> None:
    patience = CircuitBreaker(max_delay=MINUTE)

    patience.start(at(0), max_duration=CALL)
    patience.record_success()

    assert patience.allows(at(0))
    assert patience.next_probe_at is None


def test_waits_double_up_to_the_longest() -> None:
    patience, now, waits = CircuitBreaker(max_delay=MINUTE), at(0), []

    for _ in range(8):
        patience.record_failure("busy", started_at=now, now=now)
        assert patience.next_probe_at is not None
        waits.append((patience.next_probe_at - now).total_seconds())
        now = patience.next_probe_at

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert patience.reason == "busy"


def test_what_the_other_side_asks_for_is_given_within_bounds() -> None:
    patience = CircuitBreaker(max_delay=MINUTE)

    patience.record_failure("", started_at=at(0), now=at(0), retry_after=timedelta(seconds=20))
    assert patience.next_probe_at == at(20)
    patience.record_failure("", started_at=at(20), now=at(20), retry_after=timedelta(hours=1))
    assert patience.next_probe_at == at(80)


def test_a_probe_is_alone_for_as_long_as_it_lasts() -> None:
    patience = CircuitBreaker(max_delay=MINUTE)
    patience.record_failure("", started_at=at(0), now=at(0))

    assert not patience.allows(at(0.5))
    assert patience.allows(at(1))
    patience.start(at(1), max_duration=CALL)
    assert not patience.allows(at(30))
    assert patience.allows(at(31))


def test_a_probe_that_was_not_made_leaves_the_way_free_for_another() -> None:
    patience = CircuitBreaker(max_delay=MINUTE)
    patience.record_failure("", started_at=at(0), now=at(0))
    patience.start(at(1), max_duration=CALL)

    patience.cancel(at(1))

    assert patience.allows(at(1))


def test_many_that_fail_at_once_make_one_wait() -> None:
    patience = CircuitBreaker(max_delay=MINUTE)

    for _ in range(8):
        patience.record_failure("", started_at=at(0), now=at(5))

    assert patience.next_probe_at == at(6)


def test_a_failure_may_be_forgiven() -> None:
    patience = CircuitBreaker(max_delay=MINUTE, failure_threshold=1)

    patience.record_failure("", started_at=at(0), now=at(0))
    assert patience.allows(at(0))
    patience.record_success()
    patience.record_failure("", started_at=at(1), now=at(1))
    assert patience.allows(at(1))
    patience.record_failure("", started_at=at(1), now=at(1))
    assert not patience.allows(at(1))


@given(st.lists(st.sampled_from(["fail", "succeed"]), max_size=40))
def test_whatever_happens_the_way_is_tried_again_within_the_longest_wait(ends: list[str]) -> None:
    patience, now = CircuitBreaker(max_delay=MINUTE), at(0)

    for end in ends:
        patience.start(now, max_duration=CALL)
        if end == "fail":
            patience.record_failure("", started_at=now, now=now)
        else:
            patience.record_success()
        assert patience.allows(now + MINUTE)
        now += MINUTE


def test_a_clock_that_is_set_back_does_not_keep_it_closed_until_then() -> None:
    patience = CircuitBreaker(max_delay=MINUTE)
    for _ in range(8):
        patience.record_failure("busy", started_at=at(0), now=at(9000))
    assert not patience.allows(at(9000))

    assert patience.allows(at(10))
    patience.start(at(10), max_duration=CALL)
    assert not patience.allows(at(11))
    patience.record_failure("busy", started_at=at(10), now=at(12))
    assert patience.next_probe_at is not None
    assert at(12) < patience.next_probe_at <= at(12) + MINUTE
