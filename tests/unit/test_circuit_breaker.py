"""A circuit breaker lets one probe at a time through while it is open."""

from datetime import timedelta

from harness.factories import at
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.circuit_breaker import CircuitBreaker

CALL = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)


def test_a_closed_breaker_allows_all_calls() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE)

    breaker.start(at(0), max_duration=CALL)
    breaker.record_success()

    assert breaker.allows(at(0))
    assert breaker.next_probe_at is None


def test_delays_double_up_to_the_maximum() -> None:
    breaker, now, delays = CircuitBreaker(max_delay=MINUTE), at(0), []

    for _ in range(8):
        breaker.record_failure("busy", started_at=now, now=now)
        assert breaker.next_probe_at is not None
        delays.append((breaker.next_probe_at - now).total_seconds())
        now = breaker.next_probe_at

    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert breaker.reason == "busy"


def test_retry_after_is_respected_up_to_the_maximum() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE)

    breaker.record_failure("", started_at=at(0), now=at(0), retry_after=timedelta(seconds=20))
    assert breaker.next_probe_at == at(20)
    breaker.record_failure("", started_at=at(20), now=at(20), retry_after=timedelta(hours=1))
    assert breaker.next_probe_at == at(80)


def test_a_probe_blocks_other_calls_while_it_may_last() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE)
    breaker.record_failure("", started_at=at(0), now=at(0))

    assert not breaker.allows(at(0.5))
    assert breaker.allows(at(1))
    breaker.start(at(1), max_duration=CALL)
    assert not breaker.allows(at(30))
    assert breaker.allows(at(31))


def test_a_cancelled_probe_allows_another_at_once() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE)
    breaker.record_failure("", started_at=at(0), now=at(0))
    breaker.start(at(1), max_duration=CALL)

    breaker.cancel(at(1))

    assert breaker.allows(at(1))


def test_a_burst_of_failures_counts_once() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE)

    for _ in range(8):
        breaker.record_failure("", started_at=at(0), now=at(5))

    assert breaker.next_probe_at == at(6)


def test_failures_within_the_threshold_are_ignored() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE, failure_threshold=1)

    breaker.record_failure("", started_at=at(0), now=at(0))
    assert breaker.allows(at(0))
    breaker.record_success()
    breaker.record_failure("", started_at=at(1), now=at(1))
    assert breaker.allows(at(1))
    breaker.record_failure("", started_at=at(1), now=at(1))
    assert not breaker.allows(at(1))


@given(st.lists(st.sampled_from(["fail", "succeed"]), max_size=40))
def test_a_probe_is_always_allowed_within_the_maximum_delay(ends: list[str]) -> None:
    breaker, now = CircuitBreaker(max_delay=MINUTE), at(0)

    for end in ends:
        breaker.start(now, max_duration=CALL)
        if end == "fail":
            breaker.record_failure("", started_at=now, now=now)
        else:
            breaker.record_success()
        assert breaker.allows(now + MINUTE)
        now += MINUTE


def test_a_clock_set_back_does_not_block_calls() -> None:
    breaker = CircuitBreaker(max_delay=MINUTE)
    for _ in range(8):
        breaker.record_failure("busy", started_at=at(0), now=at(9000))
    assert not breaker.allows(at(9000))

    assert breaker.allows(at(10))
    breaker.start(at(10), max_duration=CALL)
    assert not breaker.allows(at(11))
    breaker.record_failure("busy", started_at=at(10), now=at(12))
    assert breaker.next_probe_at is not None
    assert at(12) < breaker.next_probe_at <= at(12) + MINUTE
