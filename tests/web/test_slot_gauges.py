"""The slots of each model in the metrics and in the console, with a bounded number of labels."""

from receiver.domain.slot_keys import SlotLimit
from receiver.store.interfaces import StoreSnapshot
from receiver.web.console.pages.now import slot_gauges
from receiver.web.gauges import slots

LIMITS = [
    SlotLimit(key="video", limit=3),
    SlotLimit(key="image"),
    SlotLimit(key="video/kling-v2-6", limit=1, is_named=True),
    SlotLimit(key="video/my-model", limit=2, is_named=True),
    SlotLimit(key="image/kling-v1", learned=4),
    SlotLimit(key="image/invented", learned=7),
]


def test_unknown_models_share_a_label() -> None:
    used = {"video/kling-v2-6": 1, "video/my-model": 2, "image/invented": 3, "image/invented-too": 4, "video": 5}

    found = slots(StoreSnapshot(slots_in_use=used), LIMITS).values

    assert dict(found) == {
        ("video", "any", "limit"): 3,
        ("video", "any", "used"): 5,
        ("video", "kling-v2-6", "limit"): 1,
        ("video", "kling-v2-6", "used"): 1,
        ("video", "my-model", "limit"): 2,
        ("video", "my-model", "used"): 2,
        ("image", "kling-v1", "learned"): 4,
        ("image", "other", "used"): 7,
    }


def test_the_console_shows_each_model_in_use_or_with_a_limit_of_its_own() -> None:
    shown = slot_gauges({"image/kling-v1": 2, "video": 1}, LIMITS)

    assert [(each.name, each.used, each.limit, each.is_learned) for each in shown] == [
        ("image · invented", 0, 7, True),
        ("image · kling-v1", 2, 4, True),
        ("video", 1, 3, False),
        ("video · kling-v2-6", 0, 1, False),
        ("video · my-model", 0, 2, False),
    ]


def test_the_console_shows_a_pack_alone_if_no_model_of_it_is_shown() -> None:
    assert [each.name for each in slot_gauges({}, [SlotLimit(key="video", limit=3), SlotLimit(key="image")])] == [
        "video"
    ]
