"""A clock that was set back is noticed once; a small adjustment is ignored. Delays double up to a maximum."""

from datetime import timedelta

import pytest
from harness.factories import at

from receiver.domain.backoff import backoff
from receiver.domain.clock_watch import ClockWatch


def test_the_start_needs_a_catch_up_once() -> None:
    watch = ClockWatch()
    assert watch.is_start
    assert watch.needs_catch_up(at(0))
    assert not watch.was_set_back(at(0))

    watch.record(at(0))

    assert not watch.is_start
    assert not watch.needs_catch_up(at(1))


def test_a_clock_set_back_by_more_than_five_seconds_is_noticed_until_it_is_recorded() -> None:
    watch = ClockWatch()
    watch.record(at(100))

    assert not watch.needs_catch_up(at(95))
    assert watch.needs_catch_up(at(94))
    assert watch.set_back_by(at(40)) == timedelta(seconds=60)

    watch.record(at(94))
    assert not watch.needs_catch_up(at(94))


def test_a_time_of_an_earlier_process_shows_that_the_clock_was_set_back() -> None:
    watch = ClockWatch(latest=at(100))

    assert watch.is_start
    assert watch.was_set_back(at(90))
    assert not watch.was_set_back(at(96))


@pytest.mark.parametrize(("attempt", "seconds"), [(-1, 1), (0, 1), (1, 2), (5, 32), (6, 60), (10**9, 60)])
def test_a_delay_doubles_up_to_its_maximum(attempt: int, seconds: int) -> None:
    delay = backoff(attempt, base=timedelta(seconds=1), maximum=timedelta(minutes=1))

    assert delay == timedelta(seconds=seconds)
