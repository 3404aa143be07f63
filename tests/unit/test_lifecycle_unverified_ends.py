"""An end that only an unsigned push reported, of a task that cannot be polled: a signed end replaces it."""

from datetime import timedelta
from itertools import permutations

import pytest
from harness.clock import START
from harness.factories import POLL, a_status_report, a_task
from msgspec.structs import replace

from receiver.domain.model import Origin, PushOutcome, Task, TaskState, Verification
from receiver.settings import Verify
from receiver.tasks import lifecycle
from receiver.tasks.lifecycle import CALLBACK_GRACE, Transition

EXPIRES_AT = START + timedelta(days=30)


def a_blind_task() -> Task:
    return a_task(origin=Origin.MINTED, endpoint=None, expires_at=EXPIRES_AT)


def push(task: Task, status: str, *, signed: bool = False, verify: Verify = Verify.TERMINAL) -> Transition:
    verified = Verification.SIGNATURE if signed else Verification.NONE
    return lifecycle.on_callback(task, a_status_report(status), verified=verified, verify=verify, now=START, poll=POLL)


@pytest.mark.parametrize("forged", ["succeed", "failed"])
@pytest.mark.parametrize("verify", [Verify.TERMINAL, Verify.ALWAYS])
def test_a_signed_end_replaces_an_unverified_one(forged: str, verify: Verify) -> None:
    ended = push(a_blind_task(), forged, verify=verify).task

    transition = push(ended, "succeed", signed=True, verify=verify)

    assert ended.is_end_unverified
    assert (transition.outcome, transition.announce, transition.trusted) == (PushOutcome.APPLIED, True, True)
    assert (transition.task.state, transition.task.is_end_unverified) == (TaskState.SUCCEED, False)
    assert not transition.contradicts


def test_a_signed_end_is_replaced_by_no_push() -> None:
    ended = push(push(a_blind_task(), "failed").task, "succeed", signed=True).task

    for status, signed in (("failed", True), ("failed", False), ("succeed", True), ("succeed", False)):
        transition = push(ended, status, signed=signed)
        assert not transition.announce
        assert transition.task.state is TaskState.SUCCEED


def test_an_unverified_end_is_replaced_by_no_unsigned_end_and_no_progress() -> None:
    ended = push(a_blind_task(), "failed").task

    for status, signed in (("succeed", False), ("failed", False), ("processing", True), ("submitted", True)):
        transition = push(ended, status, signed=signed)
        assert not transition.announce
        assert (transition.task.state, transition.task.is_end_unverified) == (TaskState.FAILED, True)


def test_an_end_that_the_configuration_trusts_is_not_replaced() -> None:
    ended = push(a_blind_task(), "failed", verify=Verify.NEVER).task

    transition = push(ended, "succeed", signed=True, verify=Verify.NEVER)

    assert (transition.task.state, transition.announce, transition.contradicts) == (TaskState.FAILED, False, True)


@pytest.mark.parametrize("status", ["nonsense", "processing"])
@pytest.mark.parametrize("kling_id", ["another", None])
def test_a_task_that_cannot_be_polled_is_given_up_in_time(status: str, kling_id: str | None) -> None:
    task = replace(a_blind_task(), state=TaskState.AWAITING, kling_id=None, external_task_id=None, due_at=None)
    report = replace(a_status_report(status), kling_id=kling_id, external_task_id=None)
    none, verify = Verification.NONE, Verify.TERMINAL

    task = lifecycle.on_callback(task, report, verified=none, verify=verify, now=START, poll=POLL).task
    restarted = lifecycle.on_no_answer(task, (), denied_id=None, now=START, poll=POLL).task

    assert task.due_at is not None
    assert START < task.due_at <= START + POLL.give_up_after
    assert restarted.due_at == task.due_at


def test_only_a_verified_end_shortens_the_life_of_the_callback_url() -> None:
    ended = push(a_blind_task(), "failed").task

    assert ended.expires_at == EXPIRES_AT
    assert push(ended, "succeed", signed=True).task.expires_at == START + CALLBACK_GRACE


def test_in_every_order_the_signed_end_is_announced_once_and_stands() -> None:
    pushes = [("processing", True), ("succeed", True), ("succeed", True), ("failed", False), ("succeed", False)]

    for order in permutations(pushes):
        task, announced = a_blind_task(), []
        for status, signed in order:
            transition = push(task, status, signed=signed)
            task = transition.task
            announced += [transition.trusted] if transition.announce and task.state.is_final else []

        assert (task.state, task.is_end_unverified) == (TaskState.SUCCEED, False)
        assert announced in ([True], [False, True])
