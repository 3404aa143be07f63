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
