"""Each model has slots of its own; with ``scope = "pack"`` all models of a pack share them."""

from datetime import timedelta

from harness.factories import a_task, at

from receiver.domain.slot_keys import SlotLimit
from receiver.settings import SlotSettings
from receiver.settings.slots import SlotScope
from receiver.submission.slots import SlotLimiter

CALL = timedelta(seconds=30)
FAST, SLOW = a_task(id="tsk_1", slot_key="video/kling-v2-6"), a_task(id="tsk_2", slot_key="video/kling-v1")


def test_a_full_model_does_not_block_another_one() -> None:
    slots = SlotLimiter(SlotSettings(video=2))

    assert not slots.admits(FAST, {"video/kling-v2-6": 2}, at(0))
    assert slots.admits(SLOW, {"video/kling-v2-6": 2, "video/kling-v1": 1}, at(0))
    assert slots.has_waiters(FAST)
    assert not slots.has_waiters(SLOW)


def test_a_refusal_does_not_limit_another_model() -> None:
    slots = SlotLimiter(SlotSettings())
    slots.on_slots_full(FAST, 3, started_at=at(0), now=at(0))

    assert not slots.admits(FAST, {"video/kling-v2-6": 3}, at(0))
    assert slots.admits(SLOW, {"video/kling-v2-6": 3, "video/kling-v1": 30}, at(0))
    assert not slots.has_learned_limit(SLOW)


def test_each_model_has_a_large_task_at_its_own_head() -> None:
    slots = SlotLimiter(SlotSettings(image=3))
    large = [a_task(id=f"tsk_{n}", slot_key=f"image/kling-v{n}", weight=3) for n in (1, 2)]

    for task in large:
        assert not slots.admits(task, {task.queueing.slot_key: 1}, at(0))
    assert slots.head_ids == ["tsk_1", "tsk_2"]

    slots.start(large[0], {}, at(0), max_duration=CALL)
    assert slots.head_ids == ["tsk_2"]


def test_a_model_may_have_a_limit_of_its_own() -> None:
    slots = SlotLimiter(SlotSettings(video=3, models={"kling-v2-6": 1, "image/kling-v1": 9}))

    assert not slots.admits(FAST, {"video/kling-v2-6": 1}, at(0))
    assert slots.admits(SLOW, {"video/kling-v1": 2}, at(0))
    assert not slots.admits(SLOW, {"video/kling-v1": 3}, at(0))
    assert slots.admits(a_task(slot_key="image/kling-v1"), {"image/kling-v1": 8}, at(0))


def test_a_limit_of_zero_for_a_model_means_no_limit() -> None:
    slots = SlotLimiter(SlotSettings(video=1, models={"kling-v2-6": 0}))

    assert slots.admits(FAST, {"video/kling-v2-6": 50}, at(0))


def test_with_the_scope_of_a_pack_all_its_models_count_together() -> None:
    slots = SlotLimiter(SlotSettings(video=3, scope=SlotScope.PACK))
    in_use = {"video/kling-v2-6": 2, "video": 1, "image": 1}

    assert slots.in_use(FAST, in_use) == 3
    assert not slots.admits(FAST, in_use, at(0))
    assert slots.has_waiters(SLOW)
    assert slots.admits(SLOW, {"video": 2, "image": 9}, at(0))


def test_a_restart_learns_the_limit_of_each_model() -> None:
    slots = SlotLimiter(SlotSettings(models={"kling-v1": 4}))

    slots.restore({"video/kling-v2-6": 2, "video/kling-v1": 3}, at(0))

    limits = {each.key: each.learned for each in slots.limits()}
    assert (limits["video/kling-v2-6"], limits["video/kling-v1"]) == (2, None)


def test_another_scope_forgets_what_was_learned_by_the_old_one() -> None:
    slots = SlotLimiter(SlotSettings())
    slots.on_slots_full(FAST, 3, started_at=at(0), now=at(0))

    slots.apply(SlotSettings(video=4))
    assert slots.has_learned_limit(FAST)

    slots.apply(SlotSettings(scope=SlotScope.PACK))
    assert not slots.has_learned_limit(FAST)


def test_the_limits_are_listed_by_pack_and_model() -> None:
    slots = SlotLimiter(SlotSettings(video=3, models={"kling-v2-6": 1}))
    slots.on_slots_full(SLOW, 2, started_at=at(0), now=at(0))

    assert slots.limits() == [
        SlotLimit(key="video", limit=3),
        SlotLimit(key="image"),
        SlotLimit(key="video/kling-v2-6", limit=1, is_named=True),
        SlotLimit(key="image/kling-v2-6", limit=1, is_named=True),
        SlotLimit(key="video/kling-v1", limit=3, learned=2),
    ]


def test_invented_models_do_not_grow_the_memory() -> None:
    slots = SlotLimiter(SlotSettings())

    for number in range(3000):
        slots.on_slots_full(a_task(slot_key=f"video/model-{number}"), 1, started_at=at(0), now=at(0))

    assert len(slots.limits()) == 1002
