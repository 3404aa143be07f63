"""What comes next for a task, or what a person is to do, in plain words."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at

from receiver.domain.model import (
    ArchiveState,
    Attempt,
    DeliveryStatus,
    EndReason,
    Event,
    HeldBy,
    PushOutcome,
    RouteState,
    Task,
    TaskState,
)
from receiver.store.interfaces import DeliveryView
from receiver.tasks.explain import DeliveryHistory, ReceivedPush, next_step

OVER = a_task(state=TaskState.SUCCEED, due_at=None)
END = an_event()
UNUSED = {"state": TaskState.AWAITING, "token_hash": b"t" * 32, "expires_at": at(9)}


def a_delivery_history(*, failed: int = 0, id_: str = "dlv_1", **changes: Any) -> DeliveryHistory:
    attempts = [
        Attempt(
            delivery_id="dlv_1",
            number=number,
            started_at=at(number),
            duration=timedelta(0),
            outcome="failed",
            code=500,
            reason="500: look at its log.",
        )
        for number in range(1, failed + 1)
    ]
    delivery = a_delivery(id_, **{"attempts": failed, "due_at": at(60)} | changes)
    return DeliveryHistory(
        view=DeliveryView(delivery=delivery, event_type="task.succeed", task_id="tsk_1"), attempts=attempts
    )


def next_step_of(
    task: Task = OVER,
    *errands: DeliveryHistory,
    events: tuple[Event, ...] = (END,),
    state: RouteState | None = None,
    arrivals: tuple[ReceivedPush, ...] = (),
) -> str:
    states = {} if state is None else {state.name: state}
    return next_step(task, arrivals, events, errands, states=states, routes=["publish"], now=at(0))


def a_delivered(**changes: Any) -> DeliveryHistory:
    return a_delivery_history(status=DeliveryStatus.DELIVERED, finished_at=at(1), **changes)


def a_dead(**changes: Any) -> DeliveryHistory:
    return a_delivery_history(failed=2, status=DeliveryStatus.DEAD, finished_at=at(9), **changes)


def test_when_all_have_been_told_there_is_nothing_to_do() -> None:
    assert next_step_of(OVER, a_delivered()).startswith("Nothing more")


def test_where_no_route_wanted_to_know_it_says_how_to_bring_it_out() -> None:
    assert "replay --event evt_1 --to-route NAME" in next_step_of(OVER)


def test_what_is_no_longer_kept_is_no_riddle() -> None:
    assert "no longer kept" in next_step_of(OVER, events=())


def test_a_dead_delivery_says_what_it_died_of_and_how_to_try_again() -> None:
    assert next_step_of(OVER, a_dead()) == (
        "publish: dead (500: look at its log). Once the cause is fixed: kling-receiver deliveries retry dlv_1"
    )


def test_a_delivery_that_was_retried_since_is_not_spoken_of() -> None:
    again = a_delivered(id_="dlv_2", replay_of="dlv_1")

    assert next_step_of(OVER, a_dead(), again).startswith("Nothing more")


def test_a_retry_names_its_moment() -> None:
    assert next_step_of(OVER, a_delivery_history(failed=1)) == (
        "publish: attempt 1 failed (500: look at its log); the next is at 2026-11-22 10:01:00 UTC."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"due_at": at(0)}, "as soon as a slot is free"),
        ({}, "it is delivered at 2026-11-22 10:01:00 UTC"),
        ({"claim": "c"}, "attempt 1 is in progress"),
        ({"route": "renamed"}, "the configuration no longer has this route"),
        ({"route": "reply:client.example"}, "reply:client.example: it is delivered"),
    ],
)
def test_a_waiting_delivery_says_what_it_waits_for(changes: dict[str, Any], words: str) -> None:
    assert words in next_step_of(OVER, a_delivery_history(**changes))


def test_a_held_route_says_by_what_and_how_it_is_released() -> None:
    by_failures = RouteState(name="publish", held_at=at(0), held_by=HeldBy.FAILURES, held_why="no answer.")
    by_hand = RouteState(name="publish", held_at=at(0), held_by=HeldBy.OPERATOR, held_why="")

    assert "held since 2026-11-22 10:00:00 UTC (no answer); probed once a minute" in next_step_of(
        OVER, a_delivery_history(), state=by_failures
    )
    assert next_step_of(OVER, a_delivery_history(), state=by_hand) == (
        "publish: held by an operator. To release it: kling-receiver routes release publish"
    )


def test_what_a_person_must_do_comes_first_and_not_too_much_at_once() -> None:
    errands = [a_delivery_history(id_=f"dlv_{n}", due_at=at(60 + n)) for n in range(5)] + [a_dead(id_="dlv_9")]

    sentences = next_step_of(OVER, *errands)

    assert sentences.startswith("publish: dead")
    assert sentences.endswith("3 more deliveries are not delivered: see above.")


def test_what_holds_for_several_deliveries_is_said_once() -> None:
    held = RouteState(name="publish", held_at=at(0), held_by=HeldBy.OPERATOR, held_why="")

    assert next_step_of(OVER, *(a_delivery_history(id_=f"dlv_{n}") for n in range(5)), state=held) == (
        "publish: held by an operator. To release it: kling-receiver routes release publish"
    )


def test_files_on_their_way_home_are_spoken_of() -> None:
    awaited = replace(END, archiving=ArchiveState.PENDING)

    assert next_step_of(OVER, a_delivery_history(), events=(awaited,)).startswith("Its results are being archived")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (UNUSED | {"expires_at": at(9)}, "Its callback URL has not been called yet"),
        (UNUSED | {"expires_at": at(-1)}, "expired unused"),
        (UNUSED | {"token_hash": None}, "was revoked"),
        (
            {"state": TaskState.QUEUED, "message": "waits for a slot"},
            "queued (waits for a slot); it is checked again at",
        ),
        ({"state": TaskState.QUEUED, "due_at": at(-9)}, "submitted as soon as it is its turn"),
        (
            {"state": TaskState.REJECTED, "message": "cancelled by alice: a typo", "end_reason": EndReason.CANCELLED},
            "it was cancelled by alice: a typo. Kling did not create it",
        ),
        ({"state": TaskState.SUBMITTING}, "looked up at 2026-11-22 10:00:30 UTC"),
        ({"state": TaskState.SUBMITTED}, "by the poll at 2026-11-22 10:00:30 UTC"),
        ({"state": TaskState.PROCESSING, "due_at": None}, "its next state comes by callback only"),
        ({"state": TaskState.REJECTED, "message": "bad prompt."}, "refused it (bad prompt). Correct it"),
        ({"state": TaskState.EXPIRED, "message": ""}, "given up. An end that Kling reports later still counts"),
    ],
)
def test_a_task_on_its_way_says_where_it_stands(changes: dict[str, Any], words: str) -> None:
    assert words in next_step_of(a_task(**changes), events=())


def test_a_callback_that_waits_to_be_confirmed_is_spoken_of() -> None:
    waiting = ReceivedPush(push=a_push(outcome=PushOutcome.PENDING), report=None)

    for task in (a_task(), a_task(**UNUSED)):
        assert "waits for confirmation" in next_step_of(task, events=(), arrivals=(waiting,))


def test_a_url_that_was_called_in_vain_was_called() -> None:
    forged = ReceivedPush(push=a_push(outcome=PushOutcome.FORGED), report=None)

    assert "Its callback URL was called" in next_step_of(a_task(**UNUSED), events=(), arrivals=(forged,))


def test_an_expired_task_still_speaks_of_who_was_not_told() -> None:
    assert "publish: dead" in next_step_of(a_task(state=TaskState.EXPIRED), a_dead())
