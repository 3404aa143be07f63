"""How long somebody who cannot serve is left alone."""

from datetime import timedelta

from harness.factories import at
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.circuit_breaker import Patience

CALL = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)


def test_while_calls_succeed_all_are_let_through() -> None:
    patience = Patience(longest=MINUTE)

    patience.call(at(0), lasts=CALL)
    patience.succeed()

    assert patience.admits(at(0))
    assert patience.opens_at is None


def test_waits_double_up_to_the_longest() -> None:
    patience, now, waits = Patience(longest=MINUTE), at(0), []

    for _ in range(8):
        patience.fail("busy", begun=now, now=now)
        assert patience.opens_at is not None
        waits.append((patience.opens_at - now).total_seconds())
        now = patience.opens_at

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert patience.why == "busy"


def test_what_the_other_side_asks_for_is_given_within_bounds() -> None:
    patience = Patience(longest=MINUTE)

    patience.fail("", begun=at(0), now=at(0), asked=timedelta(seconds=20))
    assert patience.opens_at == at(20)
    patience.fail("", begun=at(20), now=at(20), asked=timedelta(hours=1))
    assert patience.opens_at == at(80)


def test_a_probe_is_alone_for_as_long_as_it_lasts() -> None:
    patience = Patience(longest=MINUTE)
    patience.fail("", begun=at(0), now=at(0))

    assert not patience.admits(at(0.5))
    assert patience.admits(at(1))
    patience.call(at(1), lasts=CALL)
    assert not patience.admits(at(30))
    assert patience.admits(at(31))


def test_a_probe_that_was_not_made_leaves_the_way_free_for_another() -> None:
    patience = Patience(longest=MINUTE)
    patience.fail("", begun=at(0), now=at(0))
    patience.call(at(1), lasts=CALL)

    patience.forgo(at(1))

    assert patience.admits(at(1))


def test_many_that_fail_at_once_make_one_wait() -> None:
    patience = Patience(longest=MINUTE)

    for _ in range(8):
        patience.fail("", begun=at(0), now=at(5))

    assert patience.opens_at == at(6)


def test_a_failure_may_be_forgiven() -> None:
    patience = Patience(longest=MINUTE, tolerates=1)

    patience.fail("", begun=at(0), now=at(0))
    assert patience.admits(at(0))
    patience.succeed()
    patience.fail("", begun=at(1), now=at(1))
    assert patience.admits(at(1))
    patience.fail("", begun=at(1), now=at(1))
    assert not patience.admits(at(1))


@given(st.lists(st.sampled_from(["fail", "succeed"]), max_size=40))
def test_whatever_happens_the_way_is_tried_again_within_the_longest_wait(ends: list[str]) -> None:
    patience, now = Patience(longest=MINUTE), at(0)

    for end in ends:
        patience.call(now, lasts=CALL)
        if end == "fail":
            patience.fail("", begun=now, now=now)
        else:
            patience.succeed()
        assert patience.admits(now + MINUTE)
        now += MINUTE


def test_a_clock_that_is_set_back_does_not_keep_it_closed_until_then() -> None:
    patience = Patience(longest=MINUTE)
    for _ in range(8):
        patience.fail("busy", begun=at(0), now=at(9000))
    assert not patience.admits(at(9000))

    assert patience.admits(at(10))
    patience.call(at(10), lasts=CALL)
    assert not patience.admits(at(11))
    patience.fail("busy", begun=at(10), now=at(12))
    assert patience.opens_at is not None
    assert at(12) < patience.opens_at <= at(12) + MINUTE
