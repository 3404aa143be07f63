"""Which slots a job counts by: its pack and model, from the body, the path or the endpoint's default."""

from typing import Any

import pytest

from receiver.kling import endpoints
from receiver.kling.models import KNOWN_MODELS, requested_model
from receiver.settings import SlotSettings
from receiver.settings.slots import SlotScope
from receiver.submission.slot_assignment import SlotKeys


def key_of(path: str, body: dict[str, Any] | None = None, settings: SlotSettings | None = None) -> str:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    return SlotKeys(settings or SlotSettings()).key(endpoint, body or {})


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("videos/text2video", {"model_name": "kling-v2-6"}, "video/kling-v2-6"),
        ("videos/text2video", {"model_name": " Kling-V2-6 "}, "video/kling-v2-6"),
        ("videos/text2video", {"model": "kling-v2-6"}, "video/kling-v2-6"),
        ("text-to-video/kling-3.0-turbo", {"model_name": "kling-v1"}, "video/kling-3.0-turbo"),
        ("images/multi-image2image", {}, "image/kling-v2-1"),
        ("videos/text2video", {"model_name": None}, "video/kling-v1"),
        ("videos/lip-sync", {}, "video"),
        ("videos/lip-sync", {"model_name": "kling-v9"}, "video/kling-v9"),
        ("videos/text2video", {"model_name": "no model/\n"}, "video/other"),
        ("videos/text2video", {"model_name": ["kling-v1"]}, "video/other"),
        ("videos/text2video", {"model_name": "x" * 65}, "video/other"),
        ("audio/text-to-audio", {"model_name": "kling-v1"}, ""),
    ],
)
def test_a_job_counts_by_its_pack_and_model(path: str, body: dict[str, Any], key: str) -> None:
    assert key_of(path, body) == key


def test_the_models_of_a_pack_may_count_together() -> None:
    together = SlotSettings(scope=SlotScope.PACK)

    assert key_of("videos/text2video", {"model_name": "kling-v2-6"}, together) == "video"


def test_default_models_are_known_models() -> None:
    defaults = {endpoint.default_model for endpoint in endpoints.CATALOGUE.values()} - {""}

    assert defaults
    assert defaults <= KNOWN_MODELS


def test_invented_models_share_one_key_after_the_first_64() -> None:
    endpoint = endpoints.resolve("videos/text2video")
    assert endpoint is not None
    keys = SlotKeys(SlotSettings(models={"my-model": 2}))

    invented = {keys.key(endpoint, {"model_name": f"model-{number}"}) for number in range(1000)}

    assert len(invented) == 65
    assert "video/other" in invented
    assert keys.key(endpoint, {"model_name": "model-3"}) == "video/model-3"
    assert keys.key(endpoint, {"model_name": "kling-v2-6"}) == "video/kling-v2-6"
    assert keys.key(endpoint, {"model_name": "my-model"}) == "video/my-model"


def test_a_series_of_unknown_length_has_a_range_of_slots() -> None:
    endpoint = endpoints.resolve("images/omni-image")
    assert endpoint is not None

    assert endpoints.slot_range(endpoint, {"result_type": "series", "series_amount": "auto"}) == (1, 9)
    assert endpoints.slot_range(endpoint, {"result_type": "series", "series_amount": 4}) == (4, 4)
    assert endpoints.slot_range(endpoint, {"n": 3}) == (3, 3)
    assert requested_model(endpoint, {}) == "kling-image-o1"
