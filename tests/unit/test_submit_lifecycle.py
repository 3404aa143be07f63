"""The state machine of a submit: callbacks before the answer, callback URLs, and why a task ended."""

from datetime import timedelta

import pytest
from harness.clock import START
from harness.factories import POLL, a_status_report, a_task, at

from receiver.domain.model import EndReason, PushOutcome, StatusReport, Task, TaskState, Verification
from receiver.settings import Verify
from receiver.tasks import lifecycle, submit_lifecycle
from receiver.tasks.lifecycle import Transition


def apply_callback(task: Task, report: StatusReport, *, verify: Verify = Verify.NEVER) -> Transition:
    return lifecycle.on_callback(task, report, verified=Verification.NONE, verify=verify, now=START, poll=POLL)


def test_a_callback_before_the_creates_answer_is_kept() -> None:
    sending = a_task(state=TaskState.SUBMITTING, kling_id=None, due_at=at(35))

    early = apply_callback(sending, a_status_report("processing")).task
    bound = submit_lifecycle.bind(early, a_status_report("submitted"), poll_now=False, now=at(1), poll=POLL)

    assert early.state is TaskState.SUBMITTING
    assert bound.state is TaskState.PROCESSING
    assert bound.kling_id == "k1"


def test_an_unconfirmed_early_end_is_polled_as_soon_as_the_task_is_bound() -> None:
    sending = a_task(state=TaskState.SUBMITTING, kling_id=None, due_at=at(35))

    early = apply_callback(sending, a_status_report("succeed"), verify=Verify.TERMINAL)
    bound = submit_lifecycle.bind(early.task, a_status_report("submitted"), poll_now=True, now=at(1), poll=POLL)

    assert early.outcome is PushOutcome.PENDING
    assert early.task.due_at == at(35)
    assert bound.due_at == at(1)


def test_a_callback_urls_lifetime_starts_at_each_submit() -> None:
    month = timedelta(days=30)
    task = a_task(state=TaskState.QUEUED, kling_id=None, expires_at=START + month)

    for waited in (1, 5, 9):
        now = START + timedelta(days=waited)
        sent = submit_lifecycle.start_submit(task, b"hash", now=now, lookup_at=now)
        assert sent.expires_at == now + month
        task = submit_lifecycle.requeue(sent, "full", now=now + timedelta(hours=3), due_at=now)

    assert task.expires_at == START + month
    assert submit_lifecycle.start_submit(a_task(expires_at=None), None, now=START, lookup_at=START).expires_at is None


def test_the_id_in_an_early_push_is_used_until_the_answer_comes() -> None:
    sending = a_task(state=TaskState.SUBMITTING, kling_id=None, due_at=at(35))

    early = apply_callback(sending, a_status_report("processing", kling_id="klings")).task
    bound = submit_lifecycle.bind(
        early, a_status_report("submitted", kling_id="gateways"), poll_now=False, now=at(1), poll=POLL
    )

    assert early.kling_id == "klings"
    assert bound.kling_id == "gateways"


def test_a_push_for_a_requeued_task_shows_that_kling_created_it() -> None:
    waiting = a_task(state=TaskState.QUEUED, kling_id=None, attempts=1, due_at=at(9))

    transition = apply_callback(waiting, a_status_report("succeed"), verify=Verify.TERMINAL)

    assert transition.outcome is PushOutcome.PENDING
    assert (transition.task.state, transition.task.due_at) == (TaskState.SUBMITTING, START)


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (submit_lifecycle.reject(a_task(), "bad prompt", now=START), EndReason.REFUSED),
        (
            submit_lifecycle.reject(a_task(), "cancelled.", now=START, end_reason=EndReason.CANCELLED),
            EndReason.CANCELLED,
        ),
        (lifecycle.expire(a_task(), now=START), EndReason.TIMED_OUT),
        (lifecycle.expire(a_task(), now=START, end_reason=EndReason.UNKNOWN), EndReason.UNKNOWN),
    ],
)
def test_the_receivers_own_end_has_a_reason(ended: Task, reason: EndReason) -> None:
    assert ended.end_reason is reason
    assert not ended.state.is_final


@pytest.mark.parametrize("status", ["succeed", "failed"])
@pytest.mark.parametrize("state", [TaskState.REJECTED, TaskState.EXPIRED])
def test_a_report_from_kling_clears_the_end_reason(state: TaskState, status: str) -> None:
    ended = a_task(state=state, end_reason=EndReason.UNKNOWN)

    revived = apply_callback(ended, a_status_report(status)).task

    assert (revived.state.value, revived.end_reason) == (status, None)


def test_binding_an_id_clears_the_end_reason() -> None:
    ended = a_task(state=TaskState.EXPIRED, kling_id=None, end_reason=EndReason.UNKNOWN)

    bound = submit_lifecycle.bind(ended, a_status_report("submitted"), poll_now=False, now=at(1), poll=POLL)

    assert (bound.state, bound.end_reason) == (TaskState.SUBMITTED, None)
