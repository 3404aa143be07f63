"""Which pushes may wait for the API's word, and that each id they name has its turn."""

import pytest
from harness.factories import a_push, a_reading, a_task

from receiver.domain.errors import Crowded
from receiver.domain.model import Origin, Push, PushOutcome, Reading, Task, TaskState
from receiver.tracking import confirmations

UNBOUND = a_task(origin=Origin.MINTED, state=TaskState.AWAITING, kling_id=None, external_task_id=None)
BOUND = a_task()


def claim(name: str, word: str = "succeed", **changes: object) -> Reading:
    return a_reading(word, **{"kling_id": name, "external_task_id": None, **changes})


def waiting(*names: str, body: bytes = b"{}") -> list[tuple[Push, Reading]]:
    return [(a_push(f"psh_{name}", body=body), claim(name)) for name in names]


def admit(task: Task, pending: list[tuple[Push, Reading]], said: Reading) -> dict[str, PushOutcome]:
    return dict(confirmations.admit(task, pending, said, b"{}"))


def test_a_push_takes_the_place_of_one_that_says_the_same_and_of_no_other() -> None:
    pending = waiting("a", "b")

    assert admit(UNBOUND, pending, claim("a")) == {"psh_a": PushOutcome.DUPLICATE}
    assert admit(UNBOUND, pending, claim("a", result={})) == {}
    assert admit(UNBOUND, pending, claim("a", "failed")) == {}
    assert admit(UNBOUND, pending, claim("c")) == {}


def test_once_klings_id_is_known_the_state_alone_is_claimed() -> None:
    assert admit(BOUND, waiting("a"), claim("b")) == {"psh_a": PushOutcome.DUPLICATE}


def test_beyond_the_most_another_claim_is_refused_and_one_that_waits_already_is_not() -> None:
    full = waiting(*(f"f{number}" for number in range(confirmations.MOST)))

    assert admit(UNBOUND, full[1:], claim("true")) == {}
    with pytest.raises(Crowded):
        admit(UNBOUND, full, claim("true"))
    assert admit(UNBOUND, full, claim("f7")) == {"psh_f7": PushOutcome.DUPLICATE}
    assert admit(UNBOUND, full, claim("f7", result={})) == {"psh_f7": PushOutcome.STALE}


def test_many_versions_of_one_claim_leave_room_for_another() -> None:
    versions = [(a_push(f"psh_{number}"), claim("a", message=f"lie {number}")) for number in range(confirmations.MOST)]

    settles = admit(UNBOUND, versions, claim("true"))

    assert settles == dict.fromkeys((push.id for push, _ in versions[:-1]), PushOutcome.STALE)


def test_a_few_large_claims_are_as_many_as_may_wait_and_the_first_may_be_as_large_as_it_likes() -> None:
    large = b"x" * (confirmations.MOST_BYTES // 4)

    assert admit(UNBOUND, waiting("a", "b", "c", body=large), claim("true")) == {}
    with pytest.raises(Crowded):
        admit(UNBOUND, waiting("a", "b", "c", "d", body=large), claim("true"))
    assert confirmations.admit(UNBOUND, [], claim("true"), b"x" * (confirmations.MOST_BYTES + 1)) == {}


def test_whoever_waits_has_a_turn_before_all_that_come_later_however_many_they_are() -> None:
    turns, pending = confirmations.Turns(), waiting("unanswered", "true")
    asked = []

    for round_ in range(12):
        asked.append(turns.next(UNBOUND, pending))
        if asked[-1] not in ("unanswered", "true"):  # the API denies it
            pending = [each for each in pending if each[1].kling_id != asked[-1]]
        pending = pending + waiting(f"new{round_}")

    newcomers = [name for name in asked if name not in ("unanswered", "true")]
    assert asked[:5] == ["unanswered", "true", "unanswered", "new0", "true"]
    assert newcomers == [f"new{place}" for place in range(len(newcomers))]
    assert asked.count("unanswered") >= 3
    assert asked.count("true") >= 3


def test_a_known_id_and_one_that_is_alone_need_no_turns() -> None:
    turns = confirmations.Turns()

    assert [turns.next(BOUND, waiting("a", "b")) for _ in range(2)] == ["k1", "k1"]
    assert [turns.next(UNBOUND, waiting("a")) for _ in range(2)] == ["a", "a"]
    assert turns.next(UNBOUND, []) is None
