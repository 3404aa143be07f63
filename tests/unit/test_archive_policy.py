"""Routes wait for files, and not for ever; what is lost is said, and what may yet come is tried for."""

from datetime import timedelta
from random import Random

import pytest

from receiver.archive.policy import GIVE_UP_AFTER, SURELY_DEAD, WARN_AFTER, Alert, Missing, Verdict, judge
from receiver.domain.model import Archiving

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SLOW = Missing(number=0, url="https://cdn.example.com/0.png", reason="It did not come.")
DEAD = Missing(number=1, url="https://cdn.example.com/1.png", reason="It answered 404.", is_dead=True)


def judged(stage: Archiving, *missing: Missing, age: timedelta) -> Verdict:
    return judge(stage, missing, age=age, rng=Random(1))


@pytest.mark.parametrize("age", [timedelta(0), HOUR, 40 * DAY])
def test_when_all_is_home_routes_are_told(age: timedelta) -> None:
    assert judged(Archiving.AWAITED, age=age) == Verdict(archiving=None, deliver=True)


@pytest.mark.parametrize("stage", [Archiving.LATE, Archiving.EXPIRING])
def test_what_comes_home_late_is_said(stage: Archiving) -> None:
    assert judged(stage, age=5 * HOUR) == Verdict(archiving=None, deliver=True, alert=Alert.RECOVERED)


def test_routes_wait_while_something_may_come() -> None:
    verdict = judged(Archiving.AWAITED, SLOW, DEAD, age=59 * MINUTE)

    assert (verdict.archiving, verdict.deliver, verdict.alert) == (Archiving.AWAITED, False, None)
    assert verdict.wait == MINUTE, "the next look is at the moment at which they have waited long enough"


def test_routes_that_waited_long_enough_are_told_without_it_and_it_is_tried_for() -> None:
    verdict = judged(Archiving.AWAITED, SLOW, age=HOUR)

    assert (verdict.archiving, verdict.deliver, verdict.alert) == (Archiving.LATE, True, Alert.LOST)
    assert verdict.wait


def test_after_half_a_day_it_is_said_that_it_may_be_lost_and_once() -> None:
    assert judged(Archiving.LATE, SLOW, age=WARN_AFTER - SECOND).alert is None
    assert judged(Archiving.LATE, SLOW, age=WARN_AFTER).alert is Alert.EXPIRING
    assert judged(Archiving.LATE, SLOW, age=WARN_AFTER).archiving is Archiving.EXPIRING
    assert judged(Archiving.EXPIRING, SLOW, age=20 * HOUR).alert is None


@pytest.mark.parametrize("stage", list(Archiving))
def test_when_nothing_more_can_come_it_ends(stage: Archiving) -> None:
    assert judged(stage, DEAD, age=SURELY_DEAD) == Verdict(archiving=None, deliver=True, alert=Alert.LOST)
    assert judged(stage, SLOW, age=GIVE_UP_AFTER) == Verdict(archiving=None, deliver=True, alert=Alert.LOST)


def test_what_was_made_a_moment_ago_may_not_be_everywhere_yet() -> None:
    verdict = judged(Archiving.AWAITED, DEAD, age=SECOND)

    assert (verdict.archiving, verdict.deliver, verdict.alert) == (Archiving.AWAITED, False, None)


def test_waits_grow_with_the_time_it_has_taken_and_stay_bounded() -> None:
    rng, age, waits = Random(7), timedelta(0), []
    stage: Archiving | None = Archiving.AWAITED
    while stage is not None:
        verdict = judge(stage, [SLOW], age=age, rng=rng)
        stage = verdict.archiving
        if verdict.wait is not None:
            assert timedelta(0) < verdict.wait <= 36 * MINUTE
            waits.append(verdict.wait)
            age += verdict.wait

    assert age == GIVE_UP_AFTER
    assert waits[0] < 3 * SECOND
    assert 20 < len([wait for wait in waits if wait < 20 * MINUTE]) < 60
    assert 1200 < len(waits) < 2200
