"""Which queued tasks may be sent. Learned limits are probed again."""

from datetime import timedelta

from harness.factories import a_task, at

from receiver.settings import SlotSettings
from receiver.submission.slots import SlotLimiter

CALL = timedelta(seconds=30)


def test_a_pack_full_by_its_configured_limit_has_no_probe_time() -> None:
    slots, task = SlotLimiter(SlotSettings(image=2)), a_task(weight=1)
    slots.on_slots_full(task, 1, started_at=at(0), now=at(1))

    assert not slots.admits(task, {"image": 1}, at(1))
    assert slots.next_probe_at(at(1)) == at(2)
    assert not slots.admits(task, {"image": 2}, at(5))
    assert slots.next_probe_at(at(5)) is None


def test_a_learned_limit_is_probed_after_a_while() -> None:
    slots, task = SlotLimiter(SlotSettings(image=0)), a_task(weight=1)
    slots.on_slots_full(task, 3, started_at=at(0), now=at(1))

    assert not slots.admits(task, {"image": 3}, at(1))
    assert slots.admits(task, {"image": 3}, at(2))
    slots.start(task, {"image": 3}, at(2), max_duration=CALL)
    assert not slots.admits(task, {"image": 3}, at(3))


def test_failed_probes_back_off() -> None:
    slots, task, now = SlotLimiter(SlotSettings(image=0)), a_task(weight=1), 0.0
    waits = []

    for _ in range(9):
        slots.on_slots_full(task, 3, started_at=at(now), now=at(now))
        opens = slots.next_probe_at(at(now))
        assert opens is not None
        waits.append((opens - at(now)).total_seconds())
        now += waits[-1]

    assert waits == [1, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_lowered_limit_is_probed_again_in_a_second() -> None:
    slots, task = SlotLimiter(SlotSettings(image=0)), a_task(weight=1)
    for second in (0, 10, 20, 30):
        slots.on_slots_full(task, 3, started_at=at(second), now=at(second))

    slots.on_slots_full(task, 2, started_at=at(40), now=at(40))

    assert slots.next_probe_at(at(40)) == at(41)


def test_a_refusal_never_raises_the_limit() -> None:
    slots, small, large = SlotLimiter(SlotSettings(image=0)), a_task(weight=1), a_task(weight=9)
    slots.on_slots_full(small, 5, started_at=at(0), now=at(0))

    slots.on_slots_full(large, 0, started_at=at(1), now=at(1))

    assert not slots.admits(small, {"image": 5}, at(1))
    assert slots.admits(small, {"image": 4}, at(1))


def test_a_large_task_stays_at_the_head_until_it_fits() -> None:
    slots, large = SlotLimiter(SlotSettings(image=3)), a_task(id="tsk_1", weight=3)

    assert not slots.admits(large, {"image": 1}, at(0))
    assert slots.head_ids == ["tsk_1"]
    assert slots.has_waiters(a_task())
    assert slots.admits(large, {"image": 0}, at(0))
    slots.start(large, {"image": 0}, at(0), max_duration=CALL)
    assert slots.head_ids == []


def test_a_small_task_waits_and_may_be_overtaken() -> None:
    slots, small = SlotLimiter(SlotSettings(image=1)), a_task(weight=1)

    assert not slots.admits(small, {"image": 1}, at(0))

    assert slots.has_waiters(small)
    assert slots.head_ids == []


def test_the_oldest_refused_large_task_stays_at_the_head() -> None:
    slots = SlotLimiter(SlotSettings(image=0))

    for name in ("tsk_2", "tsk_1", "tsk_3"):
        slots.requeue_at_head(a_task(id=name, weight=2))

    assert slots.head_ids == ["tsk_1"]


def test_a_task_larger_than_the_limit_is_sent_if_no_other_runs() -> None:
    slots, huge = SlotLimiter(SlotSettings(image=2)), a_task(weight=9)

    assert not slots.admits(huge, {"image": 1}, at(0))
    assert slots.admits(huge, {}, at(0))


def test_after_a_start_the_slots_in_use_are_the_learned_limit() -> None:
    slots, task = SlotLimiter(SlotSettings(image=0, video=5)), a_task(weight=1)

    slots.restore({"image": 3, "video": 2}, at(1))

    assert slots.admits(a_task(slot_key="video"), {"video": 4}, at(1))
    assert slots.admits(task, {"image": 3}, at(1))
    slots.start(task, {"image": 3}, at(1), max_duration=CALL)
    assert not slots.admits(task, {"image": 4}, at(1))
    slots.on_accepted(task, 3, 4, at(1))
    assert slots.admits(task, {"image": 4}, at(1))
    slots.start(task, {"image": 4}, at(1), max_duration=CALL)
    assert not slots.admits(task, {"image": 5}, at(1))


def test_concurrent_accepts_raise_a_limit_lowered_by_a_refusal() -> None:
    slots, task = SlotLimiter(SlotSettings(image=0)), a_task(weight=1)
    for _ in range(3):
        slots.start(task, {}, at(0), max_duration=CALL)

    slots.on_slots_full(task, 0, started_at=at(0), now=at(1))
    slots.on_accepted(task, 0, 1, at(1))
    slots.on_accepted(task, 0, 2, at(1))

    assert slots.admits(task, {"image": 1}, at(1))
    slots.on_slots_full(task, 2, started_at=at(0), now=at(1))
    assert slots.admits(task, {"image": 1}, at(1))


def test_an_inconclusive_probe_is_repeated() -> None:
    slots, task = SlotLimiter(SlotSettings(image=0)), a_task(weight=1)
    for record in (slots.on_other_error, lambda task, now: slots.on_accepted(task, 3, 2, now)):
        slots.restore({"image": 3}, at(1))
        slots.start(task, {"image": 3}, at(1), max_duration=CALL)

        record(task, at(2))

        assert slots.admits(task, {"image": 3}, at(3))


def test_a_task_without_a_pack_is_never_blocked() -> None:
    slots, task = SlotLimiter(SlotSettings(image=1)), a_task(slot_key="")

    assert slots.admits(task, {"image": 5}, at(0))
    slots.requeue_at_head(task)
    assert slots.head_ids == []


def test_a_removed_task_frees_only_its_own_head() -> None:
    slots, large = SlotLimiter(SlotSettings(image=2)), a_task(weight=2)
    assert not slots.admits(large, {"image": 1}, at(0))

    slots.remove(a_task(id="tsk_2"))
    slots.remove(a_task(slot_key=""))
    assert slots.head_ids == [large.id]

    slots.remove(large)
    assert slots.head_ids == []


def test_an_accepted_probe_raises_the_limit() -> None:
    slots, task = SlotLimiter(SlotSettings(video=0)), a_task(slot_key="video")
    slots.on_slots_full(task, 2, started_at=at(0), now=at(0))

    slots.start(task, {"video": 2}, at(1), max_duration=CALL)
    slots.on_accepted(task, 2, 3, at(1))

    assert slots.admits(task, {"video": 2}, at(1))
