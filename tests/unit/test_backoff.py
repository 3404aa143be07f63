"""A delay doubles with each failure, up to its maximum."""

from datetime import timedelta

from receiver.domain.backoff import backoff

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def test_delays_double_up_to_the_maximum() -> None:
    delays = [backoff(failures, base=SECOND, maximum=MINUTE) for failures in range(8)]

    assert [delay.total_seconds() for delay in delays] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_any_number_of_failures_is_accepted() -> None:
    assert backoff(10**9, base=SECOND, maximum=MINUTE) == MINUTE
