"""Tests which paths are Kling endpoints and what is known about each."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.model import Generation, Json
from receiver.kling.endpoints import CATALOGUE, resolve, slot_weight

LEGACY = [path for path, each in CATALOGUE.items() if each.asynchronous and each.generation is Generation.LEGACY]
KINDS = [path.partition("/")[0] for path, each in CATALOGUE.items() if each.generation is Generation.NEW]


@pytest.mark.parametrize("path", LEGACY)
def test_every_listed_endpoint_is_found_in_every_spelling(path: str) -> None:
    assert resolve(path) == resolve(f"/v1/{path}") == resolve(f"v1/{path}/") == CATALOGUE[path]
    assert CATALOGUE[path].url_path == f"/v1/{path}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["kling-9.9-omni", "o3", "V3-Master", "3", "o3-update", "user-avatar-1"])
def test_every_new_kind_is_found_with_any_model(kind: str, model: str) -> None:
    listed = CATALOGUE[f"{kind}/{{model}}"]

    assert resolve(f"{kind}/{model}") == replace(listed, path=f"{kind}/{model}")
    assert resolve(listed.path) is None
    assert resolve(f"{kind}/delete") is resolve(f"{kind}/list") is None


def test_the_catalogue_has_every_documented_endpoint() -> None:
    documented = """
        videos/text2video videos/image2video videos/multi-image2video videos/omni-video videos/motion-control
        videos/multi-elements videos/video-extend videos/lip-sync videos/advanced-lip-sync videos/avatar/image2video
        videos/effects images/generations images/multi-image2image images/editing/expand images/omni-image
        images/kolors-virtual-try-on audio/text-to-audio audio/video-to-audio general/advanced-custom-elements
        general/custom-voices general/ai-multi-shot text-to-video/{model}
    """
    synchronous = "audio/tts videos/image-recognize videos/identify-face"

    assert [path for path in documented.split() if not CATALOGUE[path].asynchronous] == []
    assert [path for path in synchronous.split() if CATALOGUE[path].asynchronous] == []


def test_legacy_tasks_are_queried_one_by_one_at_the_endpoint() -> None:
    endpoint = CATALOGUE["videos/avatar/image2video"]

    assert endpoint.query_api.max_ids == 1
    assert (
        endpoint.query_path("8672")
        == endpoint.query_path("8672", external=True)
        == "/v1/videos/avatar/image2video/8672"
    )
    assert endpoint.query_path("..") == "/v1/videos/avatar/image2video/%2E%2E"
    assert endpoint.query_path("a/b?c=d e,é") == "/v1/videos/avatar/image2video/a%2Fb%3Fc%3Dd%20e%2C%C3%A9"


def test_new_tasks_are_queried_in_batches_at_one_path() -> None:
    endpoint = resolve("text-to-video/kling-3.0-turbo")

    assert endpoint is not None
    assert endpoint.query_api.max_ids == 20
    assert endpoint.query_path("a", "b&c") == "/tasks?task_ids=a,b%26c"
    assert endpoint.query_path("mine", external=True) == "/tasks?external_task_ids=mine"


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        (
            "images/generations",
            {
                "path": "images/generations",
                "generation": "legacy",
                "pack": "image",
                "slots": "n",
                "result": "images",
                "asynchronous": True,
                "create": "POST /v1/images/generations",
                "query": "GET /v1/images/generations/{id}",
                "list": "GET /v1/images/generations?pageNum={page}&pageSize={size}",
            },
        ),
        (
            "text-to-video/{model}",
            {
                "path": "text-to-video/{model}",
                "generation": "new",
                "pack": "video",
                "slots": 1,
                "result": "videos",
                "asynchronous": True,
                "create": "POST /text-to-video/{model}",
                "query": "GET /tasks?task_ids={ids}",
                "list": "POST /tasks",
            },
        ),
        (
            "audio/tts",
            {
                "path": "audio/tts",
                "generation": "legacy",
                "pack": None,
                "slots": None,
                "result": "audios",
                "asynchronous": False,
                "create": "POST /v1/audio/tts",
                "query": None,
                "list": None,
            },
        ),
    ],
)
def test_an_endpoint_describes_its_properties(path: str, facts: Json) -> None:
    assert CATALOGUE[path].describe() == facts


@pytest.mark.parametrize(
    ("path", "pack", "result"),
    [
        ("images/multi-image2image", "image", "images"),
        ("videos/avatar/image2video", "video", "videos"),
        ("audio/text-to-audio", None, "audios"),
        ("general/custom-voices", None, "voices"),
        ("images/something-new", "image", "images"),
        ("videos/something/newer-still", "video", "videos"),
        ("audio/hum", None, "audios"),
        ("general/thing", None, "outputs"),
        ("general/listing-of-cats", None, "outputs"),
        ("v1/videos/3d-effects", "video", "videos"),
        ("v1/videos/text_to_video", "video", "videos"),
        ("v1/videos/effects-2.0", "video", "videos"),
        ("v1/videos/user-avatar", "video", "videos"),
        ("v1/videos/task-status-board", "video", "videos"),
        ("v1/images/remove-background", "image", "images"),
        ("v1/images/clear_skies", "image", "images"),
        ("v1/videos/a/b/c/d", "video", "videos"),
        ("v1/3d/generations", None, "outputs"),
        ("v1/worlds/a/b/c/d", None, "outputs"),
        ("v1/worlds", None, "outputs"),
    ],
)
def test_an_unlisted_endpoint_is_recognized_by_its_form(path: str, pack: str | None, result: str) -> None:
    endpoint = resolve(path)

    assert endpoint is not None
    assert (endpoint.pack, endpoint.result, endpoint.generation) == (pack, result, Generation.LEGACY)


@pytest.mark.parametrize(
    ("path", "pack"),
    [
        ("text-to-video/kling-3.0-turbo", "video"),
        ("/image-to-video/kling-4.0", "video"),
        ("text-to-image/kling-image-4.0", "image"),
        ("text-to-audio/some-model", None),
        ("text-to-speech/kling-voice-2.0", None),
        ("image-to-element/some-model", None),
        ("image-element-to-video/some-model", "video"),
        ("try-on/kling-5", "video"),
        ("poster-image/kling-5", "image"),
        ("omni-video/kling-3.0-omni", "video"),
        ("motion-control/kling-3.0", "video"),
        ("avatar/somebody", "video"),
        ("dance/hailuo-2", "video"),
        ("3d/o3", "video"),
        ("poster_image/o3", "image"),
        ("text_to_speech/o3", None),
        ("user-avatar/o3", "video"),
    ],
)
def test_the_new_generation_has_its_model_in_the_path(path: str, pack: str | None) -> None:
    endpoint = resolve(path)

    assert endpoint is not None
    assert (endpoint.generation, endpoint.pack) == (Generation.NEW, pack)
    assert endpoint.url_path == "/" + path.strip("/")


def test_an_unknown_family_below_v1_is_legacy() -> None:
    endpoint = resolve("/v1/worlds/text2world")

    assert endpoint is not None
    assert (endpoint.path, endpoint.url_path) == ("v1/worlds/text2world", "/v1/worlds/text2world")
    assert resolve(endpoint.path) == endpoint
    assert endpoint.query_path("8") == "/v1/worlds/text2world/8"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "v1",
        "images",
        "audio/tts",
        "/v1/audio/tts",
        "videos/image-recognize",
        "videos/identify-face",
        "general/custom-elements",
        "general/delete-elements",
        "general/delete-voices",
        "general/presets-elements",
        "videos/multi-elements/init-selection",
        "videos/multi-elements/selection/of/things",
        "general/advanced-presets-elements",
        "images/something-new/delete",
        "v1/account/costs",
        "v1/tasks/cancel",
        "v1/files/upload",
        "v1/tasks",
        "v1/images",
        "v1/user/files",
        "v1/webhooks",
        "general/voice_presets",
        "general/voices-delete",
        "images/image-upload",
        "images/upload_image",
        "videos/query-task",
        "videos/something-new/8672",
        "v1/worlds/8672",
        "v1/worlds/CjMT7WdSwWcAAAAAALvB3g",
        "videos/something-new/CjMT7WdSwWcAAAAAALvB3g",
        "text-to-video/{model}",
        "text-to-video/cancel",
        "avatar/list",
        "delete-element/kling-5",
        "tasks/o3",
        "elements/8672",
        "images/8672",
        "images/CjMT7WdSwWcAAAAAALvB3g",
        "v2/videos",
        "images/generations/867283741759111202",
        "images/multi-image2image/CjMT7WdSwWcAAAAAALvB3g",
        "tasks",
        "account/costs",
        "v1/text-to-video/kling-3.0-turbo",
        "text-to-video",
        "images/../account",
        "images/a?b=c",
        "images/a b",
        "images//a",
        "IMAGES/generations",
        "https://elsewhere.example/images/generations",
    ],
)
def test_a_path_without_callbacks_is_not_an_endpoint(path: str) -> None:
    assert resolve(path) is None


@pytest.mark.parametrize(
    ("path", "body", "slots"),
    [
        ("images/multi-image2image", {"n": 4}, 4),
        ("images/multi-image2image", {"n": "4"}, 4),
        ("images/multi-image2image", {"n": 9.0}, 9),
        ("images/multi-image2image", {}, 1),
        ("images/multi-image2image", {"n": None}, 1),
        ("images/multi-image2image", {"n": 0}, 1),
        ("images/multi-image2image", {"n": -2}, 1),
        ("images/multi-image2image", {"n": 10}, 1),
        ("images/multi-image2image", {"n": "many"}, 1),
        ("images/multi-image2image", {"n": [2]}, 1),
        ("images/multi-image2image", {"n": True}, 1),
        ("images/multi-image2image", {"n": 1e300}, 1),
        ("videos/text2video", {"n": 4}, 1),
        ("images/omni-image", {"result_type": "series", "series_amount": 4, "n": 2}, 4),
        ("images/omni-image", {"result_type": "series", "series_amount": "auto"}, 9),
        ("images/omni-image", {"result_type": "series"}, 9),
        ("images/omni-image", {"result_type": "single", "series_amount": 4, "n": 2}, 2),
        ("text-to-image/kling-image-4.0", {"settings": {"n": 3}}, 3),
        ("text-to-image/kling-image-4.0", {"settings": "x", "n": 2}, 2),
    ],
)
def test_an_image_task_takes_one_slot_per_image(path: str, body: Json, slots: int) -> None:
    endpoint = resolve(path)

    assert endpoint is not None
    assert slot_weight(endpoint, body) == slots


segments = st.sampled_from(
    [
        *("v1", "images", "videos", "audio", "general", "worlds", "generations", "lip-sync", "text-to-video", "avatar"),
        *(
            "kling-3.0",
            "delete",
            "tasks",
            "{model}",
            "..",
            ".",
            "",
            "a%2Fb",
            "867283741759111202",
            "A",
            "é",
            "a b",
            "a?b",
        ),
    ]
)


@given(st.text() | st.lists(segments, max_size=5).map("/".join))
def test_any_resolved_path_is_plain_and_resolves_again(path: str) -> None:
    endpoint = resolve(path)

    if endpoint is not None:
        assert re.fullmatch(r"(/(?!\.+/)[A-Za-z0-9._-]+){2,6}", endpoint.url_path)
        assert resolve(endpoint.path) == resolve(endpoint.url_path) == endpoint
        assert endpoint.asynchronous
