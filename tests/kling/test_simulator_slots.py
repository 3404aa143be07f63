"""The plan of a simulated account: what it counts together, and how it is written."""

import pytest
from harness.simulator_caller import IMAGES, URL_IMAGE, Start

from receiver.kling.simulator.slots import SlotPlan

VIDEO = "/v1/videos/text2video"


@pytest.mark.parametrize("text", ["video", "audio=1", "video=many", "video/=1", "scope=account", "video=-1", ""])
def test_an_invalid_slot_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be written like"):
        SlotPlan.parse([text])


def test_a_model_limit_is_refused_with_the_scope_of_a_pack() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        SlotPlan.parse(["video/kling-v1=1", "scope=pack"])


async def test_each_model_has_slots_of_its_own(start: Start) -> None:
    caller = await start(slots=["video=2", "video/kling-v2-6=1"], processing_for="1m")

    async def code(path: str = VIDEO, **body: object) -> int:
        return int((await caller.client.post(path, json={"prompt": "a cat", **body})).json()["code"])

    assert [await code(model_name="kling-v2-6") for _ in range(2)] == [0, 1303]
    assert [await code() for _ in range(3)] == [0, 0, 1303]
    assert await code(model_name="kling-v1") == 1303  # the default of the endpoint
    assert await code("/text-to-video/kling-v2-6") == 1303
    assert await code("/text-to-video/kling-3.0-turbo") == 0
    assert caller.simulator.state()["slots"]["video/kling-v2-6"] == {"used": 1, "limit": 1}


async def test_a_pack_may_count_all_models_together(start: Start) -> None:
    caller = await start(slots=["video=2", "scope=pack"], processing_for="1m")

    codes = [
        (await caller.client.post(VIDEO, json={"prompt": "a cat", "model_name": name})).json()["code"]
        for name in ("kling-v1", "kling-v2-6", "kling-v1-6")
    ]

    assert codes == [0, 0, 1303]


async def test_a_series_of_unknown_length_takes_as_many_slots_as_images_come_out(start: Start) -> None:
    caller = await start(slots=["image=9"], seed=3, processing_for="1m")
    body = {"subject_image_list": [URL_IMAGE], "result_type": "series", "series_amount": "auto"}

    await caller.client.post(IMAGES, json=body)

    task = caller.simulator.state()["tasks"][0]
    assert 2 <= task["slots"] <= 9
    assert task["slots"] == task["body"]["series_amount"]
