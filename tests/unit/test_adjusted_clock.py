"""The clock of a node that follows the database's."""

from datetime import timedelta

from receiver.domain.clock import AdjustedClock, SystemClock

MINUTES = timedelta(minutes=5)
SECOND = timedelta(seconds=1)


def test_a_clock_that_is_wrong_adopts_the_time_of_the_database() -> None:
    clock = AdjustedClock()

    moved = clock.adjust(SystemClock().now() + MINUTES)

    assert moved
    assert abs(clock.now() - SystemClock().now() - MINUTES) < SECOND


def test_the_time_of_a_round_trip_moves_no_clock() -> None:
    clock = AdjustedClock()

    moved = clock.adjust(SystemClock().now() - SECOND / 2)

    assert not moved
    assert clock.offset == timedelta()
