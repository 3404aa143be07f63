"""Which members of a body `submit --set` sends as text."""

import pytest

from receiver.kling.endpoints import resolve
from receiver.kling.string_members import is_text


@pytest.mark.parametrize(
    "path",
    [
        "prompt", "negative_prompt", "model_name", "mode", "aspect_ratio", "image", "image_tail", "static_mask",
        "voice_id", "video_url", "external_task_id", "callback_url", "camera_control.type", "duration",
    ],
)  # fmt: skip
def test_members_documented_as_text_are_known(path: str) -> None:
    assert is_a_text("videos/image2video", path)


@pytest.mark.parametrize(
    "path",
    ["n", "cfg_scale", "series_amount", "watermark_info.enabled", "camera_control.config.zoom", "element_id", "new"],
)
def test_other_members_may_be_numbers(path: str) -> None:
    assert not is_a_text("images/generations", path)


@pytest.mark.parametrize(
    ("endpoint", "path", "expected"),
    [
        ("videos/text2video", "duration", True),
        ("videos/effects", "input.duration", True),
        ("audio/text-to-audio", "duration", False),
        ("text-to-video/kling-3.0", "settings.duration", False),
    ],
)
def test_a_duration_is_text_in_legacy_videos_only(endpoint: str, path: str, *, expected: bool) -> None:
    assert is_a_text(endpoint, path) is expected


def is_a_text(endpoint: str, path: str) -> bool:
    found = resolve(endpoint)
    assert found is not None
    return is_text(found, path)
