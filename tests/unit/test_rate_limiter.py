"""How many starts a rate allows, and when."""

from datetime import timedelta

from harness.clock import START
from harness.factories import at

from receiver.domain.rate_limiter import RateLimiter


def test_no_period_has_more_starts_than_the_rate_allows() -> None:
    pace, starts = RateLimiter(count=10, per=timedelta(seconds=1)), []
    for step in range(400):
        now = START + timedelta(milliseconds=step * 7)
        started = min(pace.available(now), 1 + step % 4)
        pace.acquire(started, now)
        starts += [now] * started

    spans = [sum(begin <= start < begin + pace.per for start in starts) for begin in starts]

    assert max(spans) == 10
    assert len(starts) == 30


def test_a_rate_returns_the_time_of_the_next_start() -> None:
    pace = RateLimiter(count=2, per=timedelta(seconds=10))
    pace.acquire(1, at(0))

    assert pace.next_at(at(1)) == at(1)
    pace.acquire(1, at(3))
    assert (pace.available(at(4)), pace.next_at(at(4))) == (0, at(10))
    assert (pace.available(at(10)), pace.available(at(13))) == (1, 2)


def test_a_clock_set_back_does_not_stop_a_rate() -> None:
    pace = RateLimiter(count=1, per=timedelta(seconds=1))
    pace.acquire(1, at(3600))

    assert pace.available(at(0)) == 1
