"""``[kling.slots]``: limits per model, and what a wrong one is answered."""

from pathlib import Path

import pytest
from harness.settings_files import config_error

from receiver.settings import SlotSettings, load
from receiver.settings.slots import SlotScope


def slots(folder: Path, text: str) -> SlotSettings:
    path = folder / "config.toml"
    path.write_text(f"[kling.slots]\n{text}\n")
    return load(path, {}).settings.kling.slots


def test_limits_are_read_by_pack_and_model(tmp_path: Path) -> None:
    read = slots(tmp_path, 'video = 3\nimage = 9\nmodels = { "kling-v2-1" = 5, "video/kling-v2-6" = 1 }')

    keys = ["video/kling-v2-1", "image/kling-v2-1", "video/kling-v2-6", "image/kling-v2-6", "video", "audio/x", ""]
    assert [read.limit_of(key) for key in keys] == [5, 5, 1, 9, 3, 0, 0]
    assert read.named_keys == ["video/kling-v2-1", "image/kling-v2-1", "video/kling-v2-6"]
    assert read.scope is SlotScope.MODEL


def test_a_pack_counts_all_its_models_together(tmp_path: Path) -> None:
    read = slots(tmp_path, 'video = 3\nscope = "pack"')

    assert [read.key_of(key) for key in ("video/kling-v1", "video", "")] == ["video", "video", ""]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('models = { "Kling-V2" = 1 }', 'kling.slots.models.Kling-V2: "Kling-V2" is not a model; write it in lower'),
        ('models = { "audio/kling-v1" = 1 }', '"audio/kling-v1" is not a model'),
        ('models = { "kling-v1" = "many" }', "kling.slots.models.kling-v1: must be a whole number without quotes"),
        ('models = { "kling-v1" = -1 }', "must be 0 to 10000"),
        ("models = 3", "kling.slots.models: must be a table"),
        ('scope = "account"', 'kling.slots.scope: "account" is not a valid choice'),
        ('scope = "pack"\nmodels = { "kling-v1" = 1 }', 'kling.slots.models: is given with scope = "pack"'),
    ],
)
def test_a_wrong_limit_is_reported(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in config_error(tmp_path, f"[kling.slots]\n{text}\n")
