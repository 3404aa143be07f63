"""What happens next for a task, or what the operator can do."""

from datetime import timedelta
from typing import Any

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from msgspec.structs import replace

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
from receiver.tasks.explain import DeliveryHistory, ReceivedPush, next_steps

FINISHED = a_task(state=TaskState.SUCCEED, due_at=None)
END = an_event()
UNUSED_URL = {"state": TaskState.AWAITING, "token_hash": b"t" * 32, "expires_at": at(9)}


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
    task: Task = FINISHED,
    *deliveries: DeliveryHistory,
    events: tuple[Event, ...] = (END,),
    state: RouteState | None = None,
    pushes: tuple[ReceivedPush, ...] = (),
    routes: tuple[str, ...] = ("publish",),
) -> str:
    states = {} if state is None else {state.name: state}
    return " ".join(next_steps(task, pushes, events, deliveries, states=states, routes=routes, now=at(0)))


def a_delivered(**changes: Any) -> DeliveryHistory:
    return a_delivery_history(status=DeliveryStatus.DELIVERED, finished_at=at(1), **changes)


def a_dead(**changes: Any) -> DeliveryHistory:
    return a_delivery_history(failed=2, status=DeliveryStatus.DEAD, finished_at=at(9), **changes)


def test_once_all_deliveries_are_made_there_is_no_next_step() -> None:
    assert next_step_of(FINISHED, a_delivered()).startswith("Nothing more")


def test_an_event_without_a_route_names_the_replay_command() -> None:
    assert "replay --event evt_1 --to-route NAME" in next_step_of(FINISHED)


def test_a_configuration_without_routes_is_named_as_the_reason() -> None:
    step = next_step_of(FINISHED, routes=())

    assert "the configuration has no routes" in step
    assert "replay --event evt_1 --to-route NAME" in step


def test_removed_events_are_mentioned() -> None:
    assert "no longer kept" in next_step_of(FINISHED, events=())


def test_a_dead_delivery_has_its_cause_and_the_retry_command() -> None:
    assert next_step_of(FINISHED, a_dead()) == (
        "publish: dead (500: look at its log). Once the cause is fixed: kling-receiver deliveries retry dlv_1"
    )


def test_a_replayed_delivery_is_not_mentioned() -> None:
    again = a_delivered(id_="dlv_2", replay_of="dlv_1")

    assert next_step_of(FINISHED, a_dead(), again).startswith("Nothing more")


def test_a_retry_has_its_time() -> None:
    assert next_step_of(FINISHED, a_delivery_history(failed=1)) == (
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
def test_a_pending_delivery_has_its_cause(changes: dict[str, Any], words: str) -> None:
    assert words in next_step_of(FINISHED, a_delivery_history(**changes))


def test_a_held_route_has_its_cause_and_the_release_command() -> None:
    by_failures = RouteState(name="publish", held_at=at(0), held_by=HeldBy.FAILURES, held_why="no answer.")
    by_hand = RouteState(name="publish", held_at=at(0), held_by=HeldBy.OPERATOR, held_why="")

    assert "held since 2026-11-22 10:00:00 UTC (no answer); probed once a minute" in next_step_of(
        FINISHED, a_delivery_history(), state=by_failures
    )
    assert next_step_of(FINISHED, a_delivery_history(), state=by_hand) == (
        "publish: held by an operator. To release it: kling-receiver routes release publish"
    )


def test_steps_for_the_operator_come_first_and_are_limited() -> None:
    deliveries = [a_delivery_history(id_=f"dlv_{n}", due_at=at(60 + n)) for n in range(5)] + [a_dead(id_="dlv_9")]

    steps = next_step_of(FINISHED, *deliveries)

    assert steps.startswith("publish: dead")
    assert steps.endswith("3 more deliveries are not delivered: see above.")


def test_a_sentence_for_several_deliveries_appears_once() -> None:
    held = RouteState(name="publish", held_at=at(0), held_by=HeldBy.OPERATOR, held_why="")

    assert next_step_of(FINISHED, *(a_delivery_history(id_=f"dlv_{n}") for n in range(5)), state=held) == (
        "publish: held by an operator. To release it: kling-receiver routes release publish"
    )


def test_a_pending_archive_is_mentioned() -> None:
    pending = replace(END, archiving=ArchiveState.PENDING)

    assert next_step_of(FINISHED, a_delivery_history(), events=(pending,)).startswith("Its results are being archived")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (UNUSED_URL | {"expires_at": at(9)}, "Its callback URL has not been called yet"),
        (UNUSED_URL | {"expires_at": at(-1)}, "expired unused"),
        (UNUSED_URL | {"token_hash": None}, "was revoked"),
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
def test_an_unfinished_task_has_its_next_step(changes: dict[str, Any], words: str) -> None:
    assert words in next_step_of(a_task(**changes), events=())


def test_an_unconfirmed_callback_is_mentioned() -> None:
    waiting = ReceivedPush(push=a_push(outcome=PushOutcome.PENDING), report=None)

    for task in (a_task(), a_task(**UNUSED_URL)):
        assert "waits for confirmation" in next_step_of(task, events=(), pushes=(waiting,))


def test_a_url_called_without_effect_is_mentioned() -> None:
    forged = ReceivedPush(push=a_push(outcome=PushOutcome.FORGED), report=None)

    assert "Its callback URL was called" in next_step_of(a_task(**UNUSED_URL), events=(), pushes=(forged,))


def test_an_expired_task_still_lists_its_dead_deliveries() -> None:
    assert "publish: dead" in next_step_of(a_task(state=TaskState.EXPIRED), a_dead())
