"""When Kling is asked about a task, and by which id."""

from dataclasses import replace
from datetime import timedelta

import pytest
from harness.factories import POLL, a_push, a_status_report, a_task, at

from receiver.domain.model import Origin, Push, StatusReport, Task, TaskState
from receiver.settings import PollSettings
from receiver.tasks import poll_schedule


def pending_pushes(*names: str | None) -> list[tuple[Push, StatusReport]]:
    return [
        (a_push(f"psh_{number}"), a_status_report("succeed", kling_id=name, external_task_id=None))
        for number, name in enumerate(names)
    ]


def a_minted_task(**changes: object) -> Task:
    return a_task(
        **{"origin": Origin.MINTED, "state": TaskState.AWAITING, "kling_id": None, "external_task_id": None, **changes}
    )


def test_klings_id_is_asked_by_once_it_is_known() -> None:
    assert poll_schedule.poll_id(a_task(), pending_pushes("another")) == "k1"


def test_until_then_each_id_a_push_names_has_its_turn() -> None:
    pushes = pending_pushes("a", "b", "a", None)

    asked = [poll_schedule.poll_id(a_minted_task(poll_count=asks), pushes) for asks in range(4)]

    assert asked == ["a", "b", "a", "b"]


def test_our_own_id_has_its_turn_after_those_that_pushes_name() -> None:
    lost = a_task(kling_id=None, state=TaskState.EXPIRED)

    assert poll_schedule.poll_id(lost, pending_pushes("a")) == "a"
    assert poll_schedule.poll_id(lost, []) == "tsk_1"
    assert poll_schedule.poll_id(a_minted_task(), []) is None


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.SUBMITTING])
def test_nobody_asks_about_a_task_that_is_not_known_to_be_made(state: TaskState) -> None:
    task = a_task(state=state, due_at=at(35))

    assert poll_schedule.schedule_soon(task, now=at(1)).due_at == at(35)


def test_a_hint_brings_the_next_question_forward_and_never_back() -> None:
    assert poll_schedule.schedule_soon(a_task(due_at=at(100)), now=at(7)).due_at == at(7)
    assert poll_schedule.schedule_soon(a_task(due_at=at(3)), now=at(7)).due_at == at(3)
    assert poll_schedule.schedule_soon(a_task(due_at=at(100), polled_at=at(6)), now=at(7)).due_at == at(11)


def test_an_end_that_is_pushed_is_asked_about_soon_after_an_ordinary_question() -> None:
    asked = a_task(state=TaskState.PROCESSING, due_at=at(100), polled_at=at(6))

    assert poll_schedule.schedule_end_check(asked, now=at(6.2)).due_at == at(7.5)


def test_an_end_that_is_pushed_again_and_again_brings_no_planned_question_forward() -> None:
    asked = a_task(state=TaskState.PROCESSING, polled_at=at(6))
    doubted = poll_schedule.schedule_next(
        asked, [(a_push(received_at=at(5)), a_status_report("succeed"))], now=at(6), poll=POLL
    )
    over = a_task(state=TaskState.SUCCEED, polled_at=at(6))

    assert doubted.due_at == at(11)
    assert poll_schedule.schedule_end_check(doubted, now=at(7)).due_at == at(11)
    assert poll_schedule.schedule_end_check(doubted, now=at(11)).due_at == at(11)
    assert poll_schedule.schedule_end_check(over, now=at(7)).due_at == at(11)


def test_what_pushes_bring_about_is_five_seconds_apart_whatever_each_of_them_says() -> None:
    stranger = poll_schedule.schedule_soon(a_task(state=TaskState.PROCESSING, due_at=at(30)), now=at(6))
    answered = poll_schedule.schedule_next(poll_schedule.record_poll(stranger, now=at(7)), [], now=at(7), poll=POLL)
    of_itself = poll_schedule.schedule_next(poll_schedule.record_poll(answered, now=at(11)), [], now=at(11), poll=POLL)

    assert stranger.due_at == at(6)
    assert poll_schedule.schedule_end_check(answered, now=at(7.2)).due_at == at(12)
    assert poll_schedule.schedule_end_check(of_itself, now=at(11)).due_at == at(12.5)
    assert poll_schedule.schedule_end_check(replace(answered, push_poll_at=at(9990)), now=at(7.2)).due_at == at(8.5)


def test_a_question_that_lies_ahead_because_the_clock_was_set_back_does_not_count() -> None:
    assert poll_schedule.schedule_soon(a_task(due_at=at(9999), polled_at=at(9990)), now=at(7)).due_at == at(7)


def test_a_minted_url_whose_claims_were_all_false_waits_for_the_next() -> None:
    later = poll_schedule.schedule_next(a_minted_task(started_at=at(0), due_at=at(0)), [], now=at(9), poll=POLL)

    assert (later.due_at, later.started_at) == (None, None)


@pytest.mark.parametrize("state", [TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED])
def test_a_task_that_is_over_is_not_asked_about_without_a_reason(state: TaskState) -> None:
    assert poll_schedule.schedule_next(a_task(state=state), [], now=at(9), poll=POLL).due_at is None


def test_a_given_up_task_is_asked_about_while_a_push_waits_and_its_url_is_good() -> None:
    task, pushes = a_task(state=TaskState.EXPIRED, poll_count=3, expires_at=at(1000)), pending_pushes("k1")

    assert poll_schedule.schedule_next(task, pushes, now=at(300), poll=POLL).due_at == at(300) + timedelta(seconds=240)
    assert poll_schedule.schedule_next(task, pushes, now=at(1000), poll=POLL).due_at is None


def test_time_counts_from_when_kling_may_have_begun() -> None:
    long_ago = a_task(created_at=at(-200_000), started_at=at(0))

    assert not poll_schedule.has_timed_out(long_ago, now=at(0) + POLL.give_up_after - timedelta(seconds=1), poll=POLL)
    assert poll_schedule.has_timed_out(long_ago, now=at(0) + POLL.give_up_after, poll=POLL)
    assert not poll_schedule.has_timed_out(a_task(state=TaskState.REJECTED), now=at(10**6), poll=POLL)


def test_a_given_up_task_is_asked_about_whenever_it_is_a_quarter_older_until_its_url_expires() -> None:
    month, task = timedelta(days=30), a_task(state=TaskState.EXPIRED, expires_at=at(30 * 86_400))
    now, asked = at(0) + POLL.give_up_after, 0

    while (due := poll_schedule.schedule_next(task, [], now=now, poll=POLL).due_at) is not None:
        assert due - now == (now - at(0)) / 4
        now, asked = due, asked + 1

    assert now >= at(0) + month
    assert asked <= 15


def test_a_given_up_task_that_kling_may_never_have_had_is_not_asked_about() -> None:
    lost = a_task(state=TaskState.EXPIRED, kling_id=None)

    assert poll_schedule.schedule_next(lost, [], now=at(9), poll=POLL).due_at is None


def test_a_task_is_stuck_once_when_kling_has_had_it_for_too_long() -> None:
    task, late = a_task(created_at=at(-9999), started_at=at(0)), at(3600)

    assert not poll_schedule.is_stuck(task, now=at(3599), poll=POLL)
    assert poll_schedule.is_stuck(task, now=late, poll=POLL)
    assert not poll_schedule.is_stuck(poll_schedule.mark_stuck(task, now=late, poll=POLL), now=at(9999), poll=POLL)


@pytest.mark.parametrize(
    "state",
    [TaskState.QUEUED, TaskState.AWAITING, TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED],
)
def test_a_task_that_is_not_with_kling_is_not_stuck(state: TaskState) -> None:
    assert not poll_schedule.is_stuck(a_task(state=state), now=at(10**6), poll=POLL)


def test_nothing_is_stuck_where_nobody_wants_to_hear_of_it() -> None:
    assert not poll_schedule.is_stuck(a_task(), now=at(10**6), poll=PollSettings(stuck_after=None))


def test_a_task_that_nobody_can_be_asked_about_is_looked_at_when_it_is_stuck_and_when_it_is_given_up() -> None:
    task = a_task(endpoint=None, state=TaskState.PROCESSING)
    first = poll_schedule.next_check_at(task, POLL.after, now=at(0), poll=POLL)

    told = poll_schedule.mark_stuck(task, now=first, poll=POLL)

    assert first == at(3600)
    assert told.due_at == at(0) + POLL.give_up_after


def test_what_is_told_of_a_stuck_task_says_what_is_known_and_what_to_do() -> None:
    task = a_task(state=TaskState.PROCESSING, poll_count=15, polled_at=at(3590))

    told = poll_schedule.stuck_alert(task, poll=POLL)

    assert told["message"] == (
        "Kling has had this task since 2026-11-22T10:00:00.000Z without ending it: it is processing, "
        "and it was last polled at 2026-11-22T10:59:50.000Z."
    )
    assert "console" in told["remedy"]
    assert "2026-11-24T10:00:00.000Z" in told["remedy"]
    assert told["asks"] == 15
    assert "because its endpoint is unknown" in poll_schedule.stuck_alert(a_task(endpoint=None), poll=POLL)["message"]
