"""Ids sort by age, through clock changes and restarts."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from harness.clock import FakeClock

from receiver.domain.clock import BEFORE_ALL_EVENTS, Ids, first_id, iso, iso_micros


def test_ids_increase_while_the_clock_stops_or_is_set_back() -> None:
    clock = FakeClock()
    ids = Ids(clock)

    made = [ids.new("evt") for _ in range(100)]
    clock.advance(timedelta(days=-1))
    made += [ids.new("evt") for _ in range(100)]
    clock.advance(timedelta(days=2))
    made += [ids.new("evt") for _ in range(100)]

    assert all(one < other for one, other in pairwise(made))


def test_ids_increase_through_a_restart_with_the_clock_set_back() -> None:
    clock = FakeClock()
    before = Ids(clock).new("evt")

    clock.advance(timedelta(days=-1))

    assert Ids(clock, after=before).new("evt") > before
    assert Ids(clock, after=before.partition("_")[2]).new("evt") > before


def test_a_foreign_id_is_ignored() -> None:
    clock = FakeClock()

    for foreign in ("", "tsk_1", "tsk_" + "u" * 25, "zzz"):
        assert len(Ids(clock, after=foreign).new("tsk")) == 29
        assert Ids(clock, after=foreign).new("tsk")[:16] == Ids(clock).new("tsk")[:16]


def test_first_id_sorts_before_later_ids() -> None:
    clock = FakeClock()
    before = Ids(clock).new("evt")
    clock.advance(timedelta(milliseconds=1))

    since = first_id("evt", clock.now())

    assert before < since < Ids(clock).new("evt")


@pytest.mark.parametrize("year", [1, 1969])
def test_the_first_id_of_a_time_before_1970_sorts_before_all_ids(year: int) -> None:
    assert first_id("evt", datetime(year, 1, 1, tzinfo=UTC)) == BEFORE_ALL_EVENTS


@pytest.mark.parametrize("micros", [0, 1, 1000, 123_000, 999_999])
@pytest.mark.parametrize("year", [1, 1970, 2026, 9999])
def test_times_are_written_with_a_fixed_width(year: int, micros: int) -> None:
    at = datetime(year, 1, 2, 3, 4, 5, micros, UTC)

    assert iso_micros(at) == f"{year:04}-01-02T03:04:05.{micros:06}Z"
    assert iso(at) == f"{year:04}-01-02T03:04:05.{micros // 1000:03}Z"


def test_a_time_of_another_zone_is_written_in_utc() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, timezone(timedelta(hours=2)))

    assert iso(at) == "2026-01-02T01:04:05.678Z"
