"""The state machine of a task: what callbacks and poll answers change. A state never falls."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import product

import pytest
from harness.clock import START
from harness.factories import POLL, a_push, a_status_report, a_task, at
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.model import Origin, Polling, PushOutcome, StatusReport, Task, TaskState, Verification
from receiver.settings import Verify
from receiver.tasks import lifecycle, poll_schedule, submit_lifecycle
from receiver.tasks.lifecycle import Transition

EMPTY = a_status_report("succeed", result={})


def apply_callback(
    task: Task, report: StatusReport, *, verified: Verification = Verification.NONE, verify: Verify = Verify.NEVER
) -> Transition:
    return lifecycle.on_callback(task, report, verified=verified, verify=verify, now=START, poll=POLL)


def test_each_new_state_is_announced_once_and_in_order() -> None:
    task, announced = a_task(), []

    for status in ("submitted", "processing", "processing", "succeed", "succeed"):
        transition = apply_callback(task, a_status_report(status))
        task = transition.task
        announced += [status] if transition.announce else []

    assert announced == ["submitted", "processing", "succeed"]
    assert task.state is TaskState.SUCCEED
    assert task.due_at is None


def test_a_success_shows_how_many_slots_a_series_of_unknown_length_used() -> None:
    series = {"series_images": tuple({"index": n, "url": "https://cdn.example.com/0.png"} for n in range(4))}

    known = apply_callback(a_task(weight=9), a_status_report("succeed", result=series)).task
    running = apply_callback(a_task(weight=9), a_status_report("processing", result=series)).task
    failed = apply_callback(a_task(weight=9), a_status_report("failed")).task
    counted = apply_callback(a_task(weight=2), a_status_report("succeed")).task

    assert [task.queueing.weight for task in (known, running, failed, counted)] == [4, 9, 9, 2]


def test_a_push_older_than_the_state_is_stale() -> None:
    done = apply_callback(a_task(), a_status_report("succeed")).task

    transition = apply_callback(done, a_status_report("processing"))

    assert transition.outcome is PushOutcome.STALE
    assert transition.task.state is TaskState.SUCCEED


def test_an_unsigned_end_changes_nothing_until_the_api_confirms_it() -> None:
    transition = apply_callback(a_task(), a_status_report("succeed"), verify=Verify.TERMINAL)

    assert transition.outcome is PushOutcome.PENDING
    assert not transition.announce
    assert transition.task.state is TaskState.SUBMITTED
    assert transition.task.due_at == START


def test_a_signed_end_takes_effect_at_once() -> None:
    transition = apply_callback(
        a_task(), a_status_report("succeed"), verify=Verify.ALWAYS, verified=Verification.SIGNATURE
    )

    assert transition.announce
    assert transition.trusted
    assert transition.task.state is TaskState.SUCCEED


@pytest.mark.parametrize(
    ("verify", "outcome"), [(Verify.TERMINAL, PushOutcome.APPLIED), (Verify.ALWAYS, PushOutcome.PENDING)]
)
def test_progress_needs_confirmation_only_under_verify_always(verify: Verify, outcome: PushOutcome) -> None:
    assert apply_callback(a_task(), a_status_report("processing"), verify=verify).outcome is outcome


def test_an_end_that_cannot_be_confirmed_is_announced_as_untrusted() -> None:
    task = a_task(origin=Origin.MINTED, state=TaskState.AWAITING, endpoint=None, kling_id=None, external_task_id=None)

    transition = apply_callback(task, a_status_report("succeed"), verify=Verify.TERMINAL)

    assert transition.announce
    assert not transition.trusted
    assert transition.task.kling_id == "k1"


@pytest.mark.parametrize(
    ("task", "report"),
    [
        (a_task(), a_status_report("succeed", external_task_id="another's")),
        (a_task(), a_status_report("succeed", external_task_id=None, kling_id="another")),
    ],
)
def test_a_body_about_another_task_only_causes_a_poll(task: Task, report: StatusReport) -> None:
    transition = apply_callback(task, report)

    assert transition.outcome is PushOutcome.MISMATCH
    assert transition.task.state is task.state
    assert transition.task.due_at == START


def test_the_external_id_outweighs_a_kling_id_changed_by_a_gateway() -> None:
    assert apply_callback(a_task(), a_status_report("succeed", kling_id="another")).announce


def test_polls_of_one_task_keep_a_minimum_gap() -> None:
    task = a_task(polling=Polling(at=START - timedelta(seconds=1)))

    assert apply_callback(task, a_status_report("succeed"), verify=Verify.TERMINAL).task.due_at == at(0.5)


@pytest.mark.parametrize("report", [a_status_report("simmering"), a_status_report("succeed", has_duplicate_keys=True)])
def test_an_unrecognized_push_causes_a_poll(report: StatusReport) -> None:
    transition = apply_callback(a_task(), report)

    assert transition.outcome is PushOutcome.UNRECOGNIZED
    assert transition.task.due_at == START


def test_the_event_carries_the_push_that_the_api_confirms() -> None:
    first, again, forged, early = (a_push(f"psh_{n}") for n in range(4))
    pending = [
        (first, a_status_report("succeed")),
        (again, a_status_report("succeed")),
        (forged, a_status_report("succeed", result={"images": ({"url": "https://evil.example.com"},)})),
        (early, a_status_report("processing")),
    ]

    transition = lifecycle.on_poll_answer(a_task(), a_status_report("succeed"), pending, now=at(1), poll=POLL)

    assert transition.announce
    assert transition.confirmed is first
    assert transition.resolved == {
        "psh_0": PushOutcome.APPLIED,
        "psh_1": PushOutcome.DUPLICATE,
        "psh_2": PushOutcome.FORGED,
        "psh_3": PushOutcome.STALE,
    }


def test_the_api_overrules_a_forged_end() -> None:
    pending = [(a_push(), a_status_report("succeed"))]

    transition = lifecycle.on_poll_answer(
        a_task(), a_status_report("failed", message="too dark"), pending, now=at(1), poll=POLL
    )

    assert transition.task.state is TaskState.FAILED
    assert transition.task.message == "too dark"
    assert transition.confirmed is None
    assert transition.resolved == {"psh_1": PushOutcome.FORGED}


def test_an_end_unknown_to_the_api_is_polled_again_soon() -> None:
    pending = [(a_push(), a_status_report("succeed"))]

    transition = lifecycle.on_poll_answer(a_task(), a_status_report("processing"), pending, now=at(1), poll=POLL)

    assert transition.resolved == {}
    assert transition.task.state is TaskState.PROCESSING
    assert transition.task.due_at == at(1) + poll_schedule.MIN_POLL_GAP


def test_an_end_never_confirmed_returns_to_the_regular_poll_interval() -> None:
    pending = [(a_push(), a_status_report("succeed"))]

    transition = lifecycle.on_poll_answer(a_task(), a_status_report("processing"), pending, now=at(120), poll=POLL)

    assert transition.task.due_at == at(120) + 2 * POLL.after


def test_the_poll_interval_doubles_up_to_its_maximum() -> None:
    task, waits = a_task(kling_state=TaskState.PROCESSING, state=TaskState.PROCESSING), []

    for _ in range(6):
        task = lifecycle.on_poll_answer(task, a_status_report("processing"), [], now=START, poll=POLL).task
        assert task.due_at is not None
        waits.append((task.due_at - START).total_seconds())

    assert waits == [60, 120, 240, 300, 300, 300]


def test_an_empty_success_is_polled_again_and_then_accepted() -> None:
    task, now = a_task(), START
    waits = []

    while task.state is not TaskState.SUCCEED:
        task = lifecycle.on_poll_answer(task, EMPTY, [], now=now, poll=POLL).task
        waits.append((task.due_at or now) - now)
        now = task.due_at or now

    assert [wait.total_seconds() for wait in waits] == [10, 20, 40, 80, 0]


@pytest.mark.parametrize(
    "gap",
    [
        pytest.param(timedelta(), id="the same moment"),
        pytest.param(timedelta(days=-1), id="a clock that is set back"),
        pytest.param(timedelta(days=1), id="a clock that is set forward"),
        pytest.param(timedelta(seconds=5), id="pushes that cause polls"),
    ],
)
def test_polls_before_their_time_do_not_make_an_empty_success_count(gap: timedelta) -> None:
    task, now = a_task(), START

    for _ in range(12):
        task = lifecycle.on_poll_answer(task, EMPTY, [], now=now, poll=POLL).task
        now += gap

    assert not task.state.is_final


def test_a_late_end_revives_an_expired_task_but_progress_does_not() -> None:
    expired = lifecycle.expire(a_task(), now=START)

    assert apply_callback(expired, a_status_report("processing")).outcome is PushOutcome.STALE
    assert apply_callback(expired, a_status_report("succeed")).task.state is TaskState.SUCCEED


def test_a_report_against_the_end_is_polled_and_never_applied() -> None:
    done = apply_callback(a_task(), a_status_report("succeed")).task

    pushed = apply_callback(done, a_status_report("failed"), verify=Verify.TERMINAL)
    answered = lifecycle.on_poll_answer(
        pushed.task, a_status_report("failed"), [(a_push(), a_status_report("failed"))], now=at(1), poll=POLL
    )

    assert pushed.outcome is PushOutcome.PENDING
    assert answered.contradicts
    assert answered.task.state is TaskState.SUCCEED
    assert answered.resolved == {"psh_1": PushOutcome.MISMATCH}


def test_a_task_is_contradicted_once() -> None:
    done = apply_callback(a_task(), a_status_report("succeed")).task
    contradicted = lifecycle.on_poll_answer(done, a_status_report("failed"), now=at(1), poll=POLL, pending=())

    polled = lifecycle.on_poll_answer(contradicted.task, a_status_report("failed"), now=at(2), poll=POLL, pending=())
    pushed = apply_callback(contradicted.task, a_status_report("failed"), verify=Verify.TERMINAL)
    agreeing = apply_callback(contradicted.task, a_status_report("succeed"), verify=Verify.TERMINAL)

    assert (contradicted.contradicts, polled.contradicts) == (True, False)
    assert (pushed.outcome, agreeing.outcome) == (PushOutcome.DUPLICATE, PushOutcome.DUPLICATE)
    assert polled.task.state is TaskState.SUCCEED


STATUSES = st.sampled_from(["submitted", "processing", "succeed", "failed", "simmering"])
RANK = {TaskState.SUBMITTED: 1, TaskState.PROCESSING: 2, TaskState.SUCCEED: 3, TaskState.FAILED: 3}


@given(st.lists(st.tuples(STATUSES, st.booleans()), max_size=12), st.sampled_from(Verify))
def test_no_order_of_reports_lowers_a_state_or_repeats_an_event(
    reports: list[tuple[str, bool]], verify: Verify
) -> None:
    apply_all(reports, verify)


@pytest.mark.parametrize("verify", Verify)
def test_every_permutation_and_repetition_of_four_pushes_and_answers_has_one_end(verify: Verify) -> None:
    each = [
        (status, by_poll) for status in ("submitted", "processing", "succeed", "failed") for by_poll in (False, True)
    ]

    for reports in product(each, repeat=4):
        apply_all(reports, verify)


def apply_all(updates: Sequence[tuple[str, bool]], verify: Verify) -> None:
    """Apply all updates, and check after each that the state never falls and no event is repeated."""
    task, announced = a_task(), []
    pending: list[tuple[str, str]] = []

    for number, (status, by_poll) in enumerate(updates):
        before = task
        if by_poll:
            waiting = [(a_push(name), a_status_report(pushed)) for name, pushed in pending]
            transition = lifecycle.on_poll_answer(task, a_status_report(status), waiting, now=START, poll=POLL)
            pending = [(name, pushed) for name, pushed in pending if name not in transition.resolved]
            task, announce = transition.task, transition.announce
        else:
            transition = apply_callback(task, a_status_report(status), verify=verify)
            pending += [(f"psh_{number}", status)] if transition.outcome is PushOutcome.PENDING else []
            task, announce = transition.task, transition.announce
        announced += [status] if announce else []
        assert RANK[task.state] >= RANK[before.state]
        assert not before.state.is_final or task.state is before.state

    assert len(set(announced)) == len(announced)
    assert len({"succeed", "failed"} & set(announced)) <= 1
    assert task.state.is_final == bool({"succeed", "failed"} & set(announced))


def test_a_result_url_with_a_new_signature_is_the_same_result() -> None:
    pushed = a_status_report(
        "succeed", result={"images": ({"index": 0, "url": "https://cdn.example.com/0.png?sig=a"},)}
    )
    answered = a_status_report(
        "succeed", result={"images": ({"index": 0, "url": "https://cdn.example.com/0.png?sig=b"},)}
    )

    transition = lifecycle.on_poll_answer(a_task(), answered, [(a_push(), pushed)], now=at(1), poll=POLL)

    assert transition.resolved == {"psh_1": PushOutcome.APPLIED}


def test_a_callback_url_expires_some_time_after_the_tasks_end() -> None:
    ended = apply_callback(a_task(expires_at=START + timedelta(days=30)), a_status_report("succeed")).task
    long_made = apply_callback(a_task(expires_at=START + timedelta(days=2)), a_status_report("failed")).task

    assert ended.expires_at == START + lifecycle.CALLBACK_GRACE
    assert long_made.expires_at == START + timedelta(days=2)


@pytest.mark.parametrize("end", [submit_lifecycle.reject, lifecycle.expire], ids=["rejected", "expired"])
def test_a_callback_url_expires_after_the_receivers_own_end_too(end: Callable[..., Task]) -> None:
    ended = end(a_task(expires_at=START + timedelta(days=30)), message="no", now=START)
    long_made = end(a_task(expires_at=START + timedelta(days=2)), message="no", now=START)

    assert ended.expires_at == START + lifecycle.CALLBACK_GRACE
    assert long_made.expires_at == START + timedelta(days=2)


REFUSED = a_task(state=TaskState.REJECTED, kling_id=None, due_at=None)


@pytest.mark.parametrize("status", ["submitted", "processing", "succeed", "failed"])
def test_an_unsigned_report_about_a_refused_task_needs_confirmation(status: str) -> None:
    transition = apply_callback(REFUSED, a_status_report(status), verify=Verify.TERMINAL)
    confirmed = lifecycle.on_poll_answer(
        transition.task, a_status_report(status), [(a_push(), a_status_report(status))], now=at(1), poll=POLL
    )

    assert (transition.outcome, transition.announce) == (PushOutcome.PENDING, False)
    assert (transition.task.state, transition.task.due_at) == (TaskState.REJECTED, START)
    assert (confirmed.announce, confirmed.task.state.value) == (True, status)


@pytest.mark.parametrize(
    ("verify", "verified"), [(Verify.NEVER, Verification.NONE), (Verify.TERMINAL, Verification.SIGNATURE)]
)
def test_a_trusted_report_revives_a_refused_task_at_once(verify: Verify, verified: Verification) -> None:
    transition = apply_callback(REFUSED, a_status_report("processing"), verify=verify, verified=verified)

    assert transition.announce
    assert transition.task.state is TaskState.PROCESSING


def test_a_push_without_ids_is_forged_once_kling_denies_the_tasks_own_id() -> None:
    without_ids = [(a_push(), a_status_report("processing", kling_id=None, external_task_id=None))]

    denied_other = lifecycle.on_no_answer(REFUSED, without_ids, denied_id="another", now=at(1), poll=POLL)
    denied_own = lifecycle.on_no_answer(REFUSED, without_ids, denied_id="tsk_1", now=at(1), poll=POLL)

    assert denied_other.resolved == {}
    assert denied_own.resolved == {"psh_1": PushOutcome.FORGED}
    assert denied_own.task.due_at is None


def test_an_empty_success_before_the_result_is_not_forged() -> None:
    transition = lifecycle.on_poll_answer(
        a_task(), a_status_report("succeed"), [(a_push(), a_status_report("succeed", result={}))], now=at(1), poll=POLL
    )

    assert transition.resolved == {"psh_1": PushOutcome.DUPLICATE}
    assert transition.confirmed is None


def test_a_denied_kling_id_forges_all_pushes_and_a_pushed_id_only_its_own() -> None:
    pending = [(a_push("psh_1"), a_status_report("succeed", kling_id="a", external_task_id=None)),
               (a_push("psh_2"), a_status_report("succeed", kling_id="b", external_task_id=None))]  # fmt: skip
    unbound = a_task(origin=Origin.MINTED, kling_id=None, external_task_id=None, state=TaskState.AWAITING)

    by_known_id = lifecycle.on_no_answer(a_task(), pending, denied_id="k1", now=at(1), poll=POLL)
    by_pushed_id = lifecycle.on_no_answer(unbound, pending, denied_id="a", now=at(1), poll=POLL)

    assert set(by_known_id.resolved) == {"psh_1", "psh_2"}
    assert by_pushed_id.resolved == {"psh_1": PushOutcome.FORGED}
