"""The state machine: what callbacks may do, what answers decide, and that a state never falls."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import product

import pytest
from harness.factories import POLL, a_push, a_status_report, a_task, at
from harness.support import START
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.model import Origin, PushOutcome, StatusReport, Task, TaskState, Verification
from receiver.settings import Verify
from receiver.tasks import lifecycle, poll_schedule, submit_lifecycle
from receiver.tasks.lifecycle import Transition


def apply_callback(
    task: Task, reading: StatusReport, *, verified: Verification = Verification.NONE, verify: Verify = Verify.NEVER
) -> Transition:
    return lifecycle.on_callback(task, reading, verified=verified, verify=verify, now=START, poll=POLL)


def test_each_new_state_is_announced_once_in_order() -> None:
    task, announced = a_task(), []

    for word in ("submitted", "processing", "processing", "succeed", "succeed"):
        ruling = apply_callback(task, a_status_report(word))
        task = ruling.task
        announced += [word] if ruling.announce else []

    assert announced == ["submitted", "processing", "succeed"]
    assert task.state is TaskState.SUCCEED
    assert task.due_at is None


def test_a_push_that_was_overtaken_is_stale() -> None:
    done = apply_callback(a_task(), a_status_report("succeed")).task

    ruling = apply_callback(done, a_status_report("processing"))

    assert ruling.outcome is PushOutcome.STALE
    assert ruling.task.state is TaskState.SUCCEED


def test_an_unsigned_end_waits_for_the_api_and_changes_nothing() -> None:
    ruling = apply_callback(a_task(), a_status_report("succeed"), verify=Verify.TERMINAL)

    assert ruling.outcome is PushOutcome.PENDING
    assert not ruling.announce
    assert ruling.task.state is TaskState.SUBMITTED
    assert ruling.task.due_at == START


def test_a_signed_end_counts_at_once() -> None:
    ruling = apply_callback(a_task(), a_status_report("succeed"), verify=Verify.ALWAYS, verified=Verification.SIGNATURE)

    assert ruling.announce
    assert ruling.trusted
    assert ruling.task.state is TaskState.SUCCEED


@pytest.mark.parametrize(
    ("verify", "outcome"), [(Verify.TERMINAL, PushOutcome.APPLIED), (Verify.ALWAYS, PushOutcome.PENDING)]
)
def test_a_step_on_the_way_wants_confirming_only_under_always(verify: Verify, outcome: PushOutcome) -> None:
    assert apply_callback(a_task(), a_status_report("processing"), verify=verify).outcome is outcome


def test_what_nobody_can_confirm_is_announced_as_untrusted() -> None:
    task = a_task(origin=Origin.MINTED, state=TaskState.AWAITING, endpoint=None, kling_id=None, external_task_id=None)

    ruling = apply_callback(task, a_status_report("succeed"), verify=Verify.TERMINAL)

    assert ruling.announce
    assert not ruling.trusted
    assert ruling.task.kling_id == "k1"


@pytest.mark.parametrize(
    ("task", "reading"),
    [
        (a_task(), a_status_report("succeed", external_task_id="another's")),
        (a_task(), a_status_report("succeed", external_task_id=None, kling_id="another")),
    ],
)
def test_a_body_about_another_task_changes_nothing_but_has_the_api_asked(task: Task, reading: StatusReport) -> None:
    ruling = apply_callback(task, reading)

    assert ruling.outcome is PushOutcome.MISMATCH
    assert ruling.task.state is task.state
    assert ruling.task.due_at == START


def test_our_own_id_outweighs_a_kling_id_that_a_gateway_changed() -> None:
    assert apply_callback(a_task(), a_status_report("succeed", kling_id="another")).announce


def test_questions_about_one_task_keep_their_distance() -> None:
    task = a_task(polled_at=START - timedelta(seconds=1))

    assert apply_callback(task, a_status_report("succeed"), verify=Verify.TERMINAL).task.due_at == at(0.5)


@pytest.mark.parametrize("reading", [a_status_report("simmering"), a_status_report("succeed", has_duplicate_keys=True)])
def test_what_cannot_be_read_has_the_api_asked(reading: StatusReport) -> None:
    ruling = apply_callback(a_task(), reading)

    assert ruling.outcome is PushOutcome.UNRECOGNIZED
    assert ruling.task.due_at == START


def test_the_push_that_the_api_confirms_goes_out_as_it_came() -> None:
    first, again, forged, early = (a_push(f"psh_{n}") for n in range(4))
    pending = [
        (first, a_status_report("succeed")),
        (again, a_status_report("succeed")),
        (forged, a_status_report("succeed", result={"images": ({"url": "https://evil.example.com"},)})),
        (early, a_status_report("processing")),
    ]

    lesson = lifecycle.on_poll_answer(a_task(), a_status_report("succeed"), pending, now=at(1), poll=POLL)

    assert lesson.announce
    assert lesson.confirmed is first
    assert lesson.resolved == {
        "psh_0": PushOutcome.APPLIED,
        "psh_1": PushOutcome.DUPLICATE,
        "psh_2": PushOutcome.FORGED,
        "psh_3": PushOutcome.STALE,
    }


def test_the_apis_word_stands_against_a_forged_end() -> None:
    pending = [(a_push(), a_status_report("succeed"))]

    lesson = lifecycle.on_poll_answer(
        a_task(), a_status_report("failed", message="too dark"), pending, now=at(1), poll=POLL
    )

    assert lesson.task.state is TaskState.FAILED
    assert lesson.task.message == "too dark"
    assert lesson.confirmed is None
    assert lesson.resolved == {"psh_1": PushOutcome.FORGED}


def test_an_end_the_api_does_not_know_of_yet_is_asked_about_again_soon() -> None:
    pending = [(a_push(), a_status_report("succeed"))]

    lesson = lifecycle.on_poll_answer(a_task(), a_status_report("processing"), pending, now=at(1), poll=POLL)

    assert lesson.resolved == {}
    assert lesson.task.state is TaskState.PROCESSING
    assert lesson.task.due_at == at(1) + poll_schedule.MIN_POLL_GAP


def test_an_end_that_nobody_confirms_falls_back_to_the_ordinary_interval() -> None:
    pending = [(a_push(), a_status_report("succeed"))]

    lesson = lifecycle.on_poll_answer(a_task(), a_status_report("processing"), pending, now=at(120), poll=POLL)

    assert lesson.task.due_at == at(120) + 2 * POLL.after


def test_the_interval_grows_up_to_its_ceiling() -> None:
    task, waits = a_task(kling_state=TaskState.PROCESSING, state=TaskState.PROCESSING), []

    for _ in range(6):
        task = lifecycle.on_poll_answer(task, a_status_report("processing"), [], now=START, poll=POLL).task
        assert task.due_at is not None
        waits.append((task.due_at - START).total_seconds())

    assert waits == [60, 120, 240, 300, 300, 300]


def test_a_succeed_without_a_result_is_asked_about_again_and_then_taken() -> None:
    task, announced = a_task(), 0
    hollow = a_status_report("succeed", result={})

    for _ in range(poll_schedule.EMPTY_RESULT_RETRIES):
        assert not announced
        lesson = lifecycle.on_poll_answer(task, hollow, [], now=START, poll=POLL)
        task, announced = lesson.task, announced + lesson.announce

    assert task.state is TaskState.SUCCEED


def test_a_late_end_undoes_giving_up_but_a_late_step_does_not() -> None:
    given_up = lifecycle.expire(a_task(), now=START)

    assert apply_callback(given_up, a_status_report("processing")).outcome is PushOutcome.STALE
    assert apply_callback(given_up, a_status_report("succeed")).task.state is TaskState.SUCCEED


def test_a_callback_before_the_creates_answer_stands_when_the_answer_comes() -> None:
    sending = a_task(state=TaskState.SUBMITTING, kling_id=None, due_at=at(35))

    early = apply_callback(sending, a_status_report("processing")).task
    bound = submit_lifecycle.bind(early, a_status_report("submitted"), poll_now=False, now=at(1), poll=POLL)

    assert early.state is TaskState.SUBMITTING
    assert bound.state is TaskState.PROCESSING
    assert bound.kling_id == "k1"


def test_an_early_end_that_waits_for_confirmation_is_asked_about_as_soon_as_the_task_is_bound() -> None:
    sending = a_task(state=TaskState.SUBMITTING, kling_id=None, due_at=at(35))

    early = apply_callback(sending, a_status_report("succeed"), verify=Verify.TERMINAL)
    bound = submit_lifecycle.bind(early.task, a_status_report("submitted"), poll_now=True, now=at(1), poll=POLL)

    assert early.outcome is PushOutcome.PENDING
    assert early.task.due_at == at(35)
    assert bound.due_at == at(1)


def test_a_contradiction_of_the_end_is_asked_about_and_never_taken() -> None:
    done = apply_callback(a_task(), a_status_report("succeed")).task

    ruling = apply_callback(done, a_status_report("failed"), verify=Verify.TERMINAL)
    lesson = lifecycle.on_poll_answer(
        ruling.task, a_status_report("failed"), [(a_push(), a_status_report("failed"))], now=at(1), poll=POLL
    )

    assert ruling.outcome is PushOutcome.PENDING
    assert lesson.contradicts
    assert lesson.task.state is TaskState.SUCCEED
    assert lesson.resolved == {"psh_1": PushOutcome.MISMATCH}


WORDS = st.sampled_from(["submitted", "processing", "succeed", "failed", "simmering"])
RANK = {TaskState.SUBMITTED: 1, TaskState.PROCESSING: 2, TaskState.SUCCEED: 3, TaskState.FAILED: 3}


@given(st.lists(st.tuples(WORDS, st.booleans()), max_size=12), st.sampled_from(Verify))
def test_no_order_or_repetition_of_news_makes_a_state_fall_or_an_event_come_twice(
    news: list[tuple[str, bool]], verify: Verify
) -> None:
    apply_all(news, verify)


@pytest.mark.parametrize("verify", Verify)
def test_every_permutation_and_repetition_of_four_pushes_and_answers_has_one_end(verify: Verify) -> None:
    each = [(word, by_poll) for word in ("submitted", "processing", "succeed", "failed") for by_poll in (False, True)]

    for news in product(each, repeat=4):
        apply_all(news, verify)


def apply_all(updates: Sequence[tuple[str, bool]], verify: Verify) -> None:
    """Let a task hear all of this, and see at each step that it never falls back and that nothing is told twice."""
    task, announced = a_task(), []
    pending: list[tuple[str, str]] = []

    for number, (word, by_poll) in enumerate(updates):
        before = task
        if by_poll:
            waiting = [(a_push(name), a_status_report(said)) for name, said in pending]
            lesson = lifecycle.on_poll_answer(task, a_status_report(word), waiting, now=START, poll=POLL)
            pending = [(name, said) for name, said in pending if name not in lesson.resolved]
            task, announce = lesson.task, lesson.announce
        else:
            ruling = apply_callback(task, a_status_report(word), verify=verify)
            pending += [(f"psh_{number}", word)] if ruling.outcome is PushOutcome.PENDING else []
            task, announce = ruling.task, ruling.announce
        announced += [word] if announce else []
        assert RANK[task.state] >= RANK[before.state]
        assert not before.state.is_final or task.state is before.state

    assert len(set(announced)) == len(announced)
    assert len({"succeed", "failed"} & set(announced)) <= 1
    assert task.state.is_final == bool({"succeed", "failed"} & set(announced))


def test_a_url_signed_anew_is_still_the_same_result() -> None:
    pushed = a_status_report(
        "succeed", result={"images": ({"index": 0, "url": "https://cdn.example.com/0.png?sig=a"},)}
    )
    answered = a_status_report(
        "succeed", result={"images": ({"index": 0, "url": "https://cdn.example.com/0.png?sig=b"},)}
    )

    lesson = lifecycle.on_poll_answer(a_task(), answered, [(a_push(), pushed)], now=at(1), poll=POLL)

    assert lesson.resolved == {"psh_1": PushOutcome.APPLIED}


def test_the_end_of_a_task_brings_its_callback_urls_end() -> None:
    ended = apply_callback(a_task(expires_at=START + timedelta(days=30)), a_status_report("succeed")).task
    long_made = apply_callback(a_task(expires_at=START + timedelta(days=2)), a_status_report("failed")).task

    assert ended.expires_at == START + lifecycle.CALLBACK_GRACE
    assert long_made.expires_at == START + timedelta(days=2)


@pytest.mark.parametrize("end", [submit_lifecycle.reject, lifecycle.expire], ids=["rejected", "expired"])
def test_an_end_of_ours_brings_it_too(end: Callable[..., Task]) -> None:
    ended = end(a_task(expires_at=START + timedelta(days=30)), message="no", now=START)
    long_made = end(a_task(expires_at=START + timedelta(days=2)), message="no", now=START)

    assert ended.expires_at == START + lifecycle.CALLBACK_GRACE
    assert long_made.expires_at == START + timedelta(days=2)


def test_a_callback_url_is_good_from_when_it_is_made_however_long_and_often_the_task_waited() -> None:
    month = timedelta(days=30)
    task = a_task(state=TaskState.QUEUED, kling_id=None, expires_at=START + month)

    for waited in (1, 5, 9):
        now = START + timedelta(days=waited)
        sent = submit_lifecycle.start_submit(task, b"hash", now=now, lookup_at=now)
        assert sent.expires_at == now + month
        task = submit_lifecycle.requeue(sent, "full", now=now + timedelta(hours=3), due_at=now)

    assert task.expires_at == START + month
    assert submit_lifecycle.start_submit(a_task(expires_at=None), None, now=START, lookup_at=START).expires_at is None


REFUSED = a_task(state=TaskState.REJECTED, kling_id=None, due_at=None)


@pytest.mark.parametrize("word", ["submitted", "processing", "succeed", "failed"])
def test_an_unsigned_word_of_a_task_that_was_refused_counts_only_once_the_api_confirms_it(word: str) -> None:
    ruling = apply_callback(REFUSED, a_status_report(word), verify=Verify.TERMINAL)
    confirmed = lifecycle.on_poll_answer(
        ruling.task, a_status_report(word), [(a_push(), a_status_report(word))], now=at(1), poll=POLL
    )

    assert (ruling.outcome, ruling.announce) == (PushOutcome.PENDING, False)
    assert (ruling.task.state, ruling.task.due_at) == (TaskState.REJECTED, START)
    assert (confirmed.announce, confirmed.task.state.value) == (True, word)


@pytest.mark.parametrize(
    ("verify", "verified"), [(Verify.NEVER, Verification.NONE), (Verify.TERMINAL, Verification.SIGNATURE)]
)
def test_a_signed_word_or_a_trusted_token_undoes_a_refusal_at_once(verify: Verify, verified: Verification) -> None:
    ruling = apply_callback(REFUSED, a_status_report("processing"), verify=verify, verified=verified)

    assert ruling.announce
    assert ruling.task.state is TaskState.PROCESSING


def test_a_push_that_names_nothing_is_forged_once_kling_denies_the_id_it_must_go_by() -> None:
    nameless = [(a_push(), a_status_report("processing", kling_id=None, external_task_id=None))]

    of_another = lifecycle.on_no_answer(REFUSED, nameless, denied_id="another", now=at(1), poll=POLL)
    of_its_own = lifecycle.on_no_answer(REFUSED, nameless, denied_id="tsk_1", now=at(1), poll=POLL)

    assert of_another.resolved == {}
    assert of_its_own.resolved == {"psh_1": PushOutcome.FORGED}
    assert of_its_own.task.due_at is None


def test_a_hollow_push_is_no_forgery_when_the_result_comes_after_it() -> None:
    lesson = lifecycle.on_poll_answer(
        a_task(), a_status_report("succeed"), [(a_push(), a_status_report("succeed", result={}))], now=at(1), poll=POLL
    )

    assert lesson.resolved == {"psh_1": PushOutcome.DUPLICATE}
    assert lesson.confirmed is None


def test_a_push_before_the_answer_lends_its_id_until_the_answer_comes() -> None:
    sending = a_task(state=TaskState.SUBMITTING, kling_id=None, due_at=at(35))

    early = apply_callback(sending, a_status_report("processing", kling_id="klings")).task
    bound = submit_lifecycle.bind(
        early, a_status_report("submitted", kling_id="gateways"), poll_now=False, now=at(1), poll=POLL
    )

    assert early.kling_id == "klings"
    assert bound.kling_id == "gateways"


def test_a_push_for_a_task_that_waits_to_be_sent_again_says_that_it_was_made() -> None:
    waiting = a_task(state=TaskState.QUEUED, kling_id=None, attempts=1, due_at=at(9))

    ruling = apply_callback(waiting, a_status_report("succeed"), verify=Verify.TERMINAL)

    assert ruling.outcome is PushOutcome.PENDING
    assert (ruling.task.state, ruling.task.due_at) == (TaskState.SUBMITTING, START)


def test_what_kling_denies_under_a_known_id_was_forged_and_under_a_named_one_that_push_alone() -> None:
    pending = [(a_push("psh_1"), a_status_report("succeed", kling_id="a", external_task_id=None)),
               (a_push("psh_2"), a_status_report("succeed", kling_id="b", external_task_id=None))]  # fmt: skip
    unbound = a_task(origin=Origin.MINTED, kling_id=None, external_task_id=None, state=TaskState.AWAITING)

    of_known = lifecycle.on_no_answer(a_task(), pending, denied_id="k1", now=at(1), poll=POLL)
    of_named = lifecycle.on_no_answer(unbound, pending, denied_id="a", now=at(1), poll=POLL)

    assert set(of_known.resolved) == {"psh_1", "psh_2"}
    assert of_named.resolved == {"psh_1": PushOutcome.FORGED}
