"""When a task is polled, and by which id."""

from datetime import timedelta

import pytest
from harness.factories import POLL, a_push, a_status_report, a_task, at
from msgspec.structs import replace

from receiver.domain.model import Origin, Polling, Push, StatusReport, Task, TaskState
from receiver.settings import PollSettings
from receiver.tasks import poll_schedule
from receiver.tasks.poll_optimizer import poll_policy


def pending_pushes(*ids: str | None) -> list[tuple[Push, StatusReport]]:
    return [
        (a_push(f"psh_{number}"), a_status_report("succeed", kling_id=name, external_task_id=None))
        for number, name in enumerate(ids)
    ]


def a_minted_task(**changes: object) -> Task:
    return a_task(
        **{"origin": Origin.MINTED, "state": TaskState.AWAITING, "kling_id": None, "external_task_id": None, **changes}
    )


def test_a_known_kling_id_is_polled() -> None:
    assert poll_schedule.poll_id(a_task(), pending_pushes("another")) == "k1"


def test_an_unbound_task_is_polled_by_the_ids_in_its_pushes_in_turn() -> None:
    pushes = pending_pushes("a", "b", "a", None)

    polled = [poll_schedule.poll_id(a_minted_task(polling=Polling(count=polls)), pushes) for polls in range(4)]

    assert polled == ["a", "b", "a", "b"]


def test_the_external_id_is_polled_after_the_ids_in_pushes() -> None:
    lost = a_task(kling_id=None, state=TaskState.EXPIRED)

    assert poll_schedule.poll_id(lost, pending_pushes("a")) == "a"
    assert poll_schedule.poll_id(lost, []) == "tsk_1"
    assert poll_schedule.poll_id(a_minted_task(), []) is None


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.SUBMITTING])
def test_a_task_not_known_to_exist_is_not_polled_for_a_push(state: TaskState) -> None:
    task = a_task(state=state, due_at=at(35))

    assert poll_schedule.schedule_soon(task, now=at(1)).due_at == at(35)


def test_a_push_moves_the_next_poll_forward_and_never_back() -> None:
    assert poll_schedule.schedule_soon(a_task(due_at=at(100)), now=at(7)).due_at == at(7)
    assert poll_schedule.schedule_soon(a_task(due_at=at(3)), now=at(7)).due_at == at(3)
    assert poll_schedule.schedule_soon(a_task(due_at=at(100), polling=Polling(at=at(6))), now=at(7)).due_at == at(11)


def test_a_pushed_end_is_polled_soon_after_a_regular_poll() -> None:
    polled = a_task(state=TaskState.PROCESSING, due_at=at(100), polling=Polling(at=at(6)))

    assert poll_schedule.schedule_end_check(polled, now=at(6.2)).due_at == at(7.5)


def test_a_repeated_end_does_not_move_a_planned_poll_forward() -> None:
    polled = a_task(state=TaskState.PROCESSING, polling=Polling(at=at(6)))
    unconfirmed = poll_schedule.schedule_next(
        polled, [(a_push(received_at=at(5)), a_status_report("succeed"))], now=at(6), poll=POLL
    )
    finished = a_task(state=TaskState.SUCCEED, polling=Polling(at=at(6)))

    assert unconfirmed.due_at == at(11)
    assert poll_schedule.schedule_end_check(unconfirmed, now=at(7)).due_at == at(11)
    assert poll_schedule.schedule_end_check(unconfirmed, now=at(11)).due_at == at(11)
    assert poll_schedule.schedule_end_check(finished, now=at(7)).due_at == at(11)


def test_polls_caused_by_pushes_are_five_seconds_apart() -> None:
    mismatched = poll_schedule.schedule_soon(a_task(state=TaskState.PROCESSING, due_at=at(30)), now=at(6))
    answered = poll_schedule.schedule_next(poll_schedule.record_poll(mismatched, now=at(7)), [], now=at(7), poll=POLL)
    regular = poll_schedule.schedule_next(poll_schedule.record_poll(answered, now=at(11)), [], now=at(11), poll=POLL)

    assert mismatched.due_at == at(6)
    assert poll_schedule.schedule_end_check(answered, now=at(7.2)).due_at == at(12)
    assert poll_schedule.schedule_end_check(regular, now=at(11)).due_at == at(12.5)
    answered = replace(answered, polling=replace(answered.polling, push_at=at(9990)))
    assert poll_schedule.schedule_end_check(answered, now=at(7.2)).due_at == at(8.5)


def test_a_last_poll_in_the_future_is_ignored() -> None:
    assert poll_schedule.schedule_soon(a_task(due_at=at(9999), polling=Polling(at=at(9990))), now=at(7)).due_at == at(7)


def test_a_minted_url_with_only_forged_pushes_waits_for_the_next_push() -> None:
    later = poll_schedule.schedule_next(a_minted_task(started_at=at(0), due_at=at(0)), [], now=at(9), poll=POLL)

    assert (later.due_at, later.started_at) == (None, None)


@pytest.mark.parametrize("state", [TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED])
def test_a_finished_task_is_not_polled_without_a_push(state: TaskState) -> None:
    assert poll_schedule.schedule_next(a_task(state=state), [], now=at(9), poll=POLL).due_at is None


def test_an_expired_task_is_polled_for_a_push_while_its_url_is_valid() -> None:
    task, pushes = a_task(state=TaskState.EXPIRED, polling=Polling(count=3), expires_at=at(1000)), pending_pushes("k1")

    assert poll_schedule.schedule_next(task, pushes, now=at(300), poll=POLL).due_at == at(300) + timedelta(seconds=240)
    assert poll_schedule.schedule_next(task, pushes, now=at(1000), poll=POLL).due_at is None


def test_the_time_limit_starts_with_the_submit() -> None:
    task = a_task(created_at=at(-200_000), started_at=at(0))

    assert not poll_schedule.has_timed_out(task, now=at(0) + POLL.give_up_after - timedelta(seconds=1), poll=POLL)
    assert poll_schedule.has_timed_out(task, now=at(0) + POLL.give_up_after, poll=POLL)
    assert not poll_schedule.has_timed_out(a_task(state=TaskState.REJECTED), now=at(10**6), poll=POLL)


def test_an_expired_task_is_polled_each_quarter_of_its_age_until_its_url_expires() -> None:
    month, task = timedelta(days=30), a_task(state=TaskState.EXPIRED, expires_at=at(30 * 86_400))
    now, polled = at(0) + POLL.give_up_after, 0

    while (due := poll_schedule.schedule_next(task, [], now=now, poll=POLL).due_at) is not None:
        assert due - now == (now - at(0)) / 4
        now, polled = due, polled + 1

    assert now >= at(0) + month
    assert polled <= 15


def test_an_expired_task_without_a_kling_id_is_not_polled() -> None:
    lost = a_task(state=TaskState.EXPIRED, kling_id=None)

    assert poll_schedule.schedule_next(lost, [], now=at(9), poll=POLL).due_at is None


def test_a_task_that_runs_too_long_is_stuck_once() -> None:
    task, late = a_task(created_at=at(-9999), started_at=at(0)), at(3600)

    assert not poll_schedule.is_stuck(task, now=at(3599), poll=POLL)
    assert poll_schedule.is_stuck(task, now=late, poll=POLL)
    assert not poll_schedule.is_stuck(poll_schedule.mark_stuck(task, now=late, poll=POLL), now=at(9999), poll=POLL)


@pytest.mark.parametrize(
    "state",
    [TaskState.QUEUED, TaskState.AWAITING, TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED],
)
def test_a_task_that_is_not_running_is_not_stuck(state: TaskState) -> None:
    assert not poll_schedule.is_stuck(a_task(state=state), now=at(10**6), poll=POLL)


def test_no_task_is_stuck_if_stuck_after_is_off() -> None:
    assert not poll_schedule.is_stuck(a_task(), now=at(10**6), poll=poll_policy(PollSettings(stuck_after=None)))


def test_a_task_that_cannot_be_polled_is_checked_at_its_deadlines() -> None:
    task = a_task(endpoint=None, state=TaskState.PROCESSING)
    first = poll_schedule.next_check_at(task, POLL.after, now=at(0), poll=POLL)

    marked = poll_schedule.mark_stuck(task, now=first, poll=POLL)

    assert first == at(3600)
    assert marked.due_at == at(0) + POLL.give_up_after


def test_a_stuck_alert_has_the_facts_and_a_remedy() -> None:
    task = a_task(state=TaskState.PROCESSING, polling=Polling(count=15, at=at(3590)))

    alert = poll_schedule.stuck_alert(task, poll=POLL)

    assert alert["message"] == (
        "Kling has had this task since 2026-11-22T10:00:00.000Z without ending it: it is processing, "
        "and it was last polled at 2026-11-22T10:59:50.000Z."
    )
    assert "console" in alert["remedy"]
    assert "2026-11-24T10:00:00.000Z" in alert["remedy"]
    assert alert["asks"] == 15
    assert "because its endpoint is unknown" in poll_schedule.stuck_alert(a_task(endpoint=None), poll=POLL)["message"]
