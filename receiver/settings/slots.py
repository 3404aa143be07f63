"""``[kling.slots]``: how many parallel tasks the account allows, and what they are counted by."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, ValidationInfo, field_validator

from receiver.domain.slot_keys import SlotLimit, slot_key, split_slot_key
from receiver.settings import values
from receiver.settings.fields import Section, TableField, choice_field, int_field
from receiver.settings.values import InvalidValue

PACKS: Final = ("video", "image")
_MAX_SLOTS = 10_000
_MAX_NAME = 64
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


class SlotScope(StrEnum):
    """What a limit counts together: the tasks of one model, or all tasks of a pack."""

    MODEL = "model"
    PACK = "pack"


def _model_error(name: str, _previous: Sequence[str]) -> str:
    pack, model = split_slot_key(name) if "/" in name else (PACKS[0], name)
    if pack not in PACKS or not model or len(model) > _MAX_NAME or not _LETTERS.issuperset(model):
        return f"{values.quoted(name)} is not a model; write it in lower case, such as kling-v2-1 or video/kling-v2-1"
    return ""


def _read_limit(raw: object, _info: ValidationInfo) -> int:
    return values.read_int(raw, least=0, most=_MAX_SLOTS)


class SlotSettings(Section):
    """How many parallel tasks the account allows, per pack and model version."""

    video: Annotated[int, int_field(0, _MAX_SLOTS)] = Field(
        default=0, description="Parallel video tasks of each model; 0: no configured limit."
    )
    image: Annotated[int, int_field(0, _MAX_SLOTS)] = Field(
        default=0, description="Parallel images of each model; 0: no configured limit."
    )
    scope: Annotated[SlotScope, choice_field(*SlotScope)] = Field(
        default=SlotScope.MODEL,
        description="Whether a limit applies to each model, as at Kling, or to the whole pack, as at some gateways.",
    )
    models: Annotated[Mapping[str, int], TableField(_model_error, _read_limit, {"type": "integer"})] = Field(
        default_factory=dict,
        description='Limits of single models: { "kling-v2-1" = 5 }, or { "video/kling-v2-1" = 5 } in one pack.',
    )

    @field_validator("models")
    @classmethod
    def _fits_scope(cls, value: Mapping[str, int], info: ValidationInfo) -> Mapping[str, int]:
        if value and info.data.get("scope") is SlotScope.PACK:
            raise InvalidValue('is given with scope = "pack", which counts all models together; remove one of the two')
        return value

    def key_of(self, key: str) -> str:
        """Return the slot key that a task with this slot key is counted by."""
        return split_slot_key(key)[0] if self.scope is SlotScope.PACK else key

    def limit_of(self, key: str) -> int:
        """Return the configured limit of a slot key; 0: none."""
        pack, model = split_slot_key(key)
        default = {"video": self.video, "image": self.image}.get(pack, 0)
        return self.models.get(key, self.models.get(model, default)) if model else default

    @property
    def named_keys(self) -> Sequence[str]:
        """The slot keys of the models with a limit of their own. A name without a pack counts in both."""
        return [
            key
            for name in self.models
            for key in ((name,) if "/" in name else (slot_key(pack, name) for pack in PACKS))
        ]

    def configured(self, key: str, learned: int | None = None) -> SlotLimit:
        """Return the limits of a slot key."""
        return SlotLimit(key=key, limit=self.limit_of(key), learned=learned, is_named=key in self.named_keys)
