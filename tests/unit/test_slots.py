"""Which queued tasks may be sent: what a pack was taught is tried again, and nobody waits for a moment that is past."""

from datetime import timedelta

from factories import a_task, at

from receiver.slots import Slots

CALL = timedelta(seconds=30)


def test_a_pack_that_is_full_by_its_own_limit_is_not_waited_for_by_a_lesson_that_is_over() -> None:
    slots = Slots({"image": 2})
    slots.refused(a_task(weight=1), {"image": 1}, begun=at(0), now=at(1))

    assert slots.full({"image": 1}, at(1)) == ["image"]
    assert slots.opens_at(at(1)) == at(2)
    assert slots.full({"image": 2}, at(5)) == ["image"]
    assert slots.opens_at(at(5)) is None


def test_what_was_taught_is_tried_again_after_a_while() -> None:
    slots = Slots({"image": 0})
    slots.refused(a_task(weight=1), {"image": 3}, begun=at(0), now=at(1))

    assert slots.full({"image": 3}, at(1)) == ["image"]
    assert slots.full({"image": 3}, at(2)) == []
    assert slots.take(a_task(weight=1), {"image": 3}, at(2), lasts=CALL)
    assert slots.full({"image": 3}, at(3)) == ["image"]


def test_a_small_task_does_not_overtake_a_large_one_that_waits() -> None:
    slots, large, small = Slots({"image": 3}), a_task(id="tsk_1", weight=3), a_task(id="tsk_2", weight=1)

    assert not slots.take(large, {"image": 1}, at(0), lasts=CALL)
    assert not slots.take(small, {"image": 1}, at(0), lasts=CALL)
    assert slots.full({"image": 1}, at(0)) == ["image"]
    assert slots.full({"image": 0}, at(0)) == []
    assert slots.take(large, {"image": 0}, at(0), lasts=CALL)


def test_a_task_larger_than_the_limit_goes_when_nothing_else_runs() -> None:
    slots, huge = Slots({"image": 2}), a_task(weight=9)

    assert not slots.take(huge, {"image": 1}, at(0), lasts=CALL)
    assert slots.take(huge, {}, at(0), lasts=CALL)


def test_a_pack_without_slots_is_never_full() -> None:
    assert Slots({"image": 1}).take(a_task(pack=None), {"image": 5}, at(0), lasts=CALL)


def test_what_kling_takes_beyond_the_lesson_widens_it() -> None:
    slots, task = Slots({"video": 0}), a_task(pack="video")
    slots.refused(task, {"video": 2}, begun=at(0), now=at(0))

    assert slots.take(task, {"video": 2}, at(1), lasts=CALL)
    slots.accepted(task, {"video": 2})

    assert slots.full({"video": 2}, at(1)) == []
    assert slots.take(task, {"video": 2}, at(1), lasts=CALL)
