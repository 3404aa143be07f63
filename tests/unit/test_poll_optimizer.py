"""The plan of polls for a task that no callback reports."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from harness.factories import a_task, at

from receiver.domain.model import Polling, Task, TaskState
from receiver.settings import PollSettings
from receiver.tasks.duration_estimate import Knowledge, estimate_duration
from receiver.tasks.poll_optimizer import MAX_POLLS, PollPlan, plan_polls, poll_policy
from receiver.tasks.poll_schedule import next_planned_poll, poll_interval, replan


def a_plan(durations: Sequence[float] = (), *, guess: float = 90, running: Sequence[float] = ()) -> PollPlan:
    known = Knowledge(guess=guess, durations=durations, running=running)
    return plan_polls(estimate_duration(known), known=len(durations))


def follow(plan: PollPlan, duration: float) -> tuple[float, int]:
    """Poll a task that takes this long. Return when its end is seen, and after how many polls."""
    age, polls = 0.0, 0
    while age < duration:
        age += min(plan.gap_after(age, polls=polls), 300)
        polls += 1
    return age, polls


@pytest.mark.parametrize("median", [12, 30, 60, 100, 150])
def test_ends_near_past_durations_are_detected_within_a_tenth(median: float) -> None:
    plan = a_plan([median * factor for factor in (0.75, 0.8, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.2, 1.3)])

    for duration in (median * percent / 100 for percent in range(75, 131)):
        seen, polls = follow(plan, duration)
        assert seen - duration <= max(duration / 10, 1.0), duration
        assert polls <= MAX_POLLS


def test_long_tasks_are_polled_at_most_15_seconds_apart_around_their_end() -> None:
    plan = a_plan([570, 580, 590, 600, 600, 610, 620, 630])

    for duration in range(570, 631):
        seen, polls = follow(plan, duration)
        assert seen - duration <= 16
        assert polls <= MAX_POLLS


@pytest.mark.parametrize("past", [[], [12.0], [60.0] * 20, [300.0] * 20, [20.0] * 3 + [400.0] * 9])
def test_no_task_of_ten_minutes_is_polled_more_than_12_times(past: list[float]) -> None:
    plan = a_plan(past)

    assert max(follow(plan, duration)[1] for duration in range(1, 601)) <= MAX_POLLS


def test_scattered_durations_are_covered_where_most_of_them_are() -> None:
    plan = a_plan([*([20.0] * 3), *([400.0] * 9)])

    assert follow(plan, 20)[0] <= 22
    assert follow(plan, 400)[0] <= 415


def test_a_single_past_task_is_enough_for_close_polls() -> None:
    plan = a_plan([60.0], guess=25)

    assert max(follow(plan, duration)[0] / duration for duration in range(48, 72)) <= 1.1


def test_without_past_tasks_polls_are_close_around_the_guess() -> None:
    plan = a_plan(guess=90)

    assert max(follow(plan, duration)[0] / duration for duration in range(75, 106)) <= 1.1


def test_other_tasks_that_still_run_move_the_polls_to_later_ages() -> None:
    alone, among_others = a_plan(guess=90), a_plan(guess=90, running=[250.0, 230.0, 200.0])

    assert alone.gap_after(0, polls=1) < 90
    assert 150 < among_others.gap_after(0, polls=1) < 300


def test_one_short_task_does_not_hide_that_the_others_take_longer() -> None:
    misled = a_plan([20.8], guess=25)
    aware = a_plan([20.8], guess=25, running=[33.0, 33.0, 32.0, 31.0])

    assert misled.gap_after(0, polls=0) < 20
    assert 30 < aware.gap_after(0, polls=0) < 40


def test_a_task_that_does_not_end_is_polled_with_growing_delays() -> None:
    plan = a_plan([60.0] * 20)

    assert [plan.gap_after(age, polls=12) for age in (700, 1000, 2000)] == [350, 500, 1000]
    assert plan.gap_after(200, polls=12) == 403
    assert follow(plan, 3600)[1] < 30


def test_a_late_poll_replaces_the_planned_ones_it_missed() -> None:
    plan = a_plan([60.0] * 20)
    first = plan.gap_after(0, polls=0)
    second = first + plan.gap_after(first, polls=1)

    assert plan.gap_after(second + 0.1, polls=1) > 3


def test_every_is_the_longest_interval_and_after_limits_the_first_one_of_a_guess() -> None:
    settings = PollSettings(after=timedelta(seconds=20), every=timedelta(seconds=40))
    unknown = poll_policy(settings, a_plan(guess=90), is_guess=True)
    known = poll_policy(settings, a_plan([300.0]))
    fresh, polled = a_task(started_at=at(0)), a_task(started_at=at(0), polling=Polling(count=1))

    assert poll_interval(fresh, unknown, now=at(0)) == timedelta(seconds=20)
    assert timedelta(seconds=20) < poll_interval(polled, unknown, now=at(20)) <= timedelta(seconds=40)
    assert poll_interval(fresh, known, now=at(0)) == timedelta(seconds=40)


def test_a_clock_set_back_does_not_stop_polls() -> None:
    policy = poll_policy(PollSettings(), a_plan([60.0]))

    assert poll_interval(a_task(started_at=at(1000)), policy, now=at(0)) <= timedelta(seconds=60)
    assert next_planned_poll(a_polled_task(count=1, at=at(1000)), policy, now=at(0)) is None


def a_polled_task(**polling: object) -> Task:
    known = Polling(**polling)  # type: ignore[arg-type] # the names of its fields
    return a_task(state=TaskState.SUBMITTED, kling_id="k1", started_at=at(0), due_at=at(303), polling=known)


def test_a_task_is_replanned_from_its_last_poll_but_never_into_the_past() -> None:
    policy = poll_policy(PollSettings(), a_plan([60.0] * 20))
    task = a_polled_task(count=3, at=at(30))

    soon, late = replan(task, policy, now=at(35)), replan(task, policy, now=at(200))

    assert soon.due_at is not None
    assert at(50) < soon.due_at < at(60)
    assert late.due_at == at(200)


def test_a_poll_caused_by_a_push_is_not_replanned() -> None:
    policy = poll_policy(PollSettings(), a_plan([60.0] * 20))

    assert replan(pushed := a_polled_task(count=3, at=at(30), push_at=at(40)), policy, now=at(35)) is pushed
    assert replan(missing := a_polled_task(count=3, at=at(30), empty_results=2), policy, now=at(35)) is missing
