"""Slot keys: Kling counts parallel tasks per pack and model version, so a key names both.

``video/kling-v2-1`` is one model of the video pack. ``video`` alone stands for jobs that name no model, or for the
whole pack if all models count together.
"""

import msgspec

OTHER_MODELS = "other"
"""Stands for the models beyond a bounded number of names, and for names that no model can have."""


class SlotLimit(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a slot key: the configured ``limit`` (0: none), and the ``learned`` one, if there is one.

    ``is_named``: the configuration names the model.
    """

    key: str
    limit: int = 0
    learned: int | None = None
    is_named: bool = False


def slot_key(pack: str | None, model: str = "") -> str:
    """Return the key of a pack and a model, or "" for a task that uses no slots."""
    return f"{pack}/{model}" if pack and model else pack or ""


def split_slot_key(key: str) -> tuple[str, str]:
    """Return the pack and the model of a key, each "" if it is missing."""
    pack, _, model = key.partition("/")
    return pack, model
