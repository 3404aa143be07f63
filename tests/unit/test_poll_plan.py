"""The plan of polls for a task that no callback reports."""

from datetime import timedelta

import pytest
from harness.factories import a_task, at

from receiver.domain.model import Polling
from receiver.settings import PollSettings
from receiver.tasks.poll_plan import CLOSE_POLLS, PollPlan, plan_polls, poll_policy
from receiver.tasks.poll_schedule import poll_interval


def follow(plan: PollPlan, duration: float) -> tuple[float, int]:
    """Poll a task that takes this long. Return when its end is seen, and after how many polls."""
    age, polls = 0.0, 0
    while age < duration:
        age += plan.gap_after(age, polls=polls)
        polls += 1
    return age, polls


@pytest.mark.parametrize("median", [12, 30, 60, 100, 150])
def test_ends_near_the_past_ones_are_seen_within_a_tenth(median: float) -> None:
    past = [median * factor for factor in (0.75, 0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.2, 1.3)]
    plan = plan_polls(past, guess=90)

    for duration in (median * percent / 100 for percent in range(75, 131)):
        seen, polls = follow(plan, duration)
        assert seen - duration <= max(duration / 10, 1.0), duration
        assert polls <= CLOSE_POLLS


def test_long_tasks_are_polled_at_most_15_seconds_apart_around_their_end() -> None:
    plan = plan_polls([570, 580, 590, 600, 600, 610, 620, 630], guess=90)

    for duration in range(570, 631):
        seen, polls = follow(plan, duration)
        assert seen - duration <= 15
        assert polls <= CLOSE_POLLS


def test_scattered_durations_are_covered_where_most_of_them_are() -> None:
    plan = plan_polls([*([20.0] * 3), *([400.0] * 9)], guess=90)

    assert follow(plan, 400)[0] <= 415
    assert len(plan.ages) <= CLOSE_POLLS


def test_a_single_past_task_is_enough_for_close_polls() -> None:
    plan = plan_polls([60.0], guess=10)

    assert max(follow(plan, duration)[0] / duration for duration in range(45, 80)) <= 1.1


def test_without_past_tasks_a_few_polls_are_spread_around_the_guess() -> None:
    plan = plan_polls([], guess=90)

    assert plan.ages[0] < 45
    assert plan.ages[-1] == 360
    assert follow(plan, 600)[1] <= 8


def test_a_task_that_does_not_end_is_polled_more_and_more_rarely() -> None:
    plan = plan_polls([60.0] * 20, guess=90)

    assert [plan.gap_after(age, polls=12) for age in (100, 200, 400)] == [50, 100, 200]
    assert follow(plan, 48 * 3600)[1] < 30


def test_a_late_poll_replaces_the_planned_ones_it_missed() -> None:
    plan = PollPlan(ages=[50.0, 55.0, 60.0])

    assert plan.gap_after(54.0, polls=1) == 6.0
    assert plan.gap_after(45.0, polls=0) == 5.0


def test_every_is_the_longest_interval_and_after_limits_the_first_one_of_a_guess() -> None:
    settings = PollSettings(after=timedelta(seconds=20), every=timedelta(seconds=40))
    unknown = poll_policy(settings, plan_polls([], guess=90), is_guess=True)
    known = poll_policy(settings, plan_polls([300.0], guess=90))
    fresh, polled = a_task(started_at=at(0)), a_task(started_at=at(0), polling=Polling(count=1))

    assert poll_interval(fresh, unknown, now=at(0)) == timedelta(seconds=20)
    assert poll_interval(polled, unknown, now=at(20)) == timedelta(seconds=16)
    assert poll_interval(fresh, known, now=at(0)) == timedelta(seconds=40)


def test_a_clock_that_was_set_back_does_not_stop_the_polls() -> None:
    policy = poll_policy(PollSettings(), plan_polls([60.0], guess=90))

    assert poll_interval(a_task(started_at=at(1000)), policy, now=at(0)) <= timedelta(seconds=60)
