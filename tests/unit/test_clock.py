"""Ids sort by age, whatever the clock does, and through a restart."""

from datetime import timedelta
from itertools import pairwise

from harness.support import FakeClock

from receiver.domain.clock import Ids, first_id


def test_ids_rise_while_the_clock_stands_or_is_set_back() -> None:
    clock = FakeClock()
    ids = Ids(clock)

    made = [ids.new("evt") for _ in range(100)]
    clock.advance(timedelta(days=-1))
    made += [ids.new("evt") for _ in range(100)]
    clock.advance(timedelta(days=2))
    made += [ids.new("evt") for _ in range(100)]

    assert all(one < other for one, other in pairwise(made))


def test_ids_rise_through_a_restart_with_a_clock_that_was_set_back() -> None:
    clock = FakeClock()
    before = Ids(clock).new("evt")

    clock.advance(timedelta(days=-1))

    assert Ids(clock, after=before).new("evt") > before
    assert Ids(clock, after=before.partition("_")[2]).new("evt") > before


def test_what_is_no_id_of_ours_is_no_hindrance() -> None:
    clock = FakeClock()

    for strange in ("", "tsk_1", "tsk_" + "u" * 25, "zzz"):
        assert len(Ids(clock, after=strange).new("tsk")) == 29
        assert Ids(clock, after=strange).new("tsk")[:16] == Ids(clock).new("tsk")[:16]


def test_what_was_made_since_a_moment_stands_behind_its_first_id() -> None:
    clock = FakeClock()
    before = Ids(clock).new("evt")
    clock.advance(timedelta(milliseconds=1))

    since = first_id("evt", clock.now())

    assert before < since < Ids(clock).new("evt")
