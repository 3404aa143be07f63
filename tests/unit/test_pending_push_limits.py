"""Which pushes may wait for confirmation, and that each of their ids is polled in turn."""

import pytest
from harness.factories import a_push, a_status_report, a_task

from receiver.domain.errors import TooManyPending
from receiver.domain.model import Origin, Push, PushOutcome, StatusReport, Task, TaskState
from receiver.tracking import pending_pushes
from receiver.tracking.push_limiter import USUAL_BYTES

UNBOUND = a_task(origin=Origin.MINTED, state=TaskState.AWAITING, kling_id=None, external_task_id=None)
BOUND = a_task()


def a_pending_status(name: str, word: str = "succeed", **changes: object) -> StatusReport:
    return a_status_report(word, **{"kling_id": name, "external_task_id": None, **changes})


def pushes_named(*names: str, body: bytes = b"{}") -> list[tuple[Push, StatusReport]]:
    return [(a_push(f"psh_{name}", body=body), a_pending_status(name)) for name in names]


def admit(task: Task, pending: list[tuple[Push, StatusReport]], answer: StatusReport) -> dict[str, PushOutcome]:
    return dict(pending_pushes.admit_pending(task, pending, answer, b"{}"))


def test_a_push_replaces_an_equal_one_and_no_other() -> None:
    pending = pushes_named("a", "b")

    assert admit(UNBOUND, pending, a_pending_status("a")) == {"psh_a": PushOutcome.DUPLICATE}
    assert admit(UNBOUND, pending, a_pending_status("a", result={})) == {}
    assert admit(UNBOUND, pending, a_pending_status("a", "failed")) == {}
    assert admit(UNBOUND, pending, a_pending_status("c")) == {}


def test_a_bound_tasks_push_asserts_only_a_state() -> None:
    assert admit(BOUND, pushes_named("a"), a_pending_status("b")) == {"psh_a": PushOutcome.DUPLICATE}


def test_a_new_assertion_is_refused_when_full_and_a_pending_one_is_not() -> None:
    full = pushes_named(*(f"f{number}" for number in range(pending_pushes.MAX_PENDING)))

    assert admit(UNBOUND, full[1:], a_pending_status("true")) == {}
    with pytest.raises(TooManyPending):
        admit(UNBOUND, full, a_pending_status("true"))
    assert admit(UNBOUND, full, a_pending_status("f7")) == {"psh_f7": PushOutcome.DUPLICATE}
    assert admit(UNBOUND, full, a_pending_status("f7", result={})) == {"psh_f7": PushOutcome.STALE}


def test_versions_of_one_assertion_leave_capacity_for_another() -> None:
    versions = [
        (a_push(f"psh_{number}"), a_pending_status("a", message=f"lie {number}"))
        for number in range(pending_pushes.MAX_PENDING)
    ]

    settles = admit(UNBOUND, versions, a_pending_status("true"))

    assert settles == dict.fromkeys((push.id for push, _ in versions[:-1]), PushOutcome.STALE)


def test_the_bytes_of_large_pushes_are_limited_except_for_the_first_one() -> None:
    large = b"x" * (pending_pushes.MAX_PENDING_BYTES // 4)
    true = a_pending_status("true")

    assert pending_pushes.admit_pending(UNBOUND, pushes_named("a", "b", "c", body=large), true, large) == {}
    with pytest.raises(TooManyPending):
        pending_pushes.admit_pending(UNBOUND, pushes_named("a", "b", "c", "d", body=large), true, large)
    assert pending_pushes.admit_pending(UNBOUND, [], true, b"x" * (pending_pushes.MAX_PENDING_BYTES + 1)) == {}


def test_large_pushes_leave_capacity_for_one_of_the_usual_size() -> None:
    forged = pushes_named("a", "b", "c", "d", body=b"x" * pending_pushes.MAX_PENDING_BYTES)

    assert pending_pushes.admit_pending(UNBOUND, forged, a_pending_status("true"), b"x" * USUAL_BYTES) == {}


def test_an_id_is_polled_before_all_later_ids() -> None:
    turns, pending = pending_pushes.IdRotation(), pushes_named("unanswered", "true")
    polled = []

    for round_ in range(12):
        polled.append(turns.next(UNBOUND, pending))
        if polled[-1] not in ("unanswered", "true"):  # the API denies it
            pending = [each for each in pending if each[1].kling_id != polled[-1]]
        pending = pending + pushes_named(f"new{round_}")

    newcomers = [name for name in polled if name not in ("unanswered", "true")]
    assert polled[:5] == ["unanswered", "true", "unanswered", "new0", "true"]
    assert newcomers == [f"new{place}" for place in range(len(newcomers))]
    assert polled.count("unanswered") >= 3
    assert polled.count("true") >= 3


def test_a_known_or_single_id_needs_no_rotation() -> None:
    turns = pending_pushes.IdRotation()

    assert [turns.next(BOUND, pushes_named("a", "b")) for _ in range(2)] == ["k1", "k1"]
    assert [turns.next(UNBOUND, pushes_named("a")) for _ in range(2)] == ["a", "a"]
    assert turns.next(UNBOUND, []) is None
