"""`endpoints` lists the catalogue, without a service or a configuration."""

import json

import pytest

from receiver.cli import main
from receiver.kling.endpoints import CATALOGUE

Out = pytest.CaptureFixture[str]


def test_endpoints_lists_the_whole_catalogue(capsys: Out) -> None:
    assert main(["endpoints"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    assert [cells[0] for cells in lines] == list(CATALOGUE)
    printed = {cells[0]: cells[1:] for cells in lines}
    assert printed["images/generations"] == [
        "legacy",
        "image",
        "n",
        "images",
        "yes",
        "GET /v1/images/generations/{id}",
    ]
    assert printed["text-to-video/{model}"][:3] == ["new", "video", "1"]
    assert printed["audio/tts"] == ["legacy", "", "", "audios", "no", ""]


def test_endpoints_json_is_a_list_with_items(capsys: Out) -> None:
    assert main(["endpoints", "--json"]) == 0

    printed = json.loads(capsys.readouterr().out)

    assert printed == {"items": [endpoint.describe() for endpoint in CATALOGUE.values()], "next": None}


@pytest.mark.parametrize(
    "path", ["text-to-video/kling-9", "omni-video/o3", "/v1/videos/something-new", "videos/identify-face"]
)
def test_endpoints_shows_listed_and_unlisted_paths(capsys: Out, path: str) -> None:
    assert main(["endpoints", path, "--json"]) == 0

    printed = json.loads(capsys.readouterr().out)

    assert printed["path"] == path.removeprefix("/v1/")
    assert printed["asynchronous"] == (path != "videos/identify-face")


def test_endpoints_suggests_the_nearest_endpoint(capsys: Out) -> None:
    assert main(["endpoints", "images/generation/8672"]) == 2

    assert "Did you mean images/generations?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "near"),
    [("imags/foo", "images/..."), ("images/generatons", "images/generations"), ("image/foo", "images/...")],
)
def test_an_unlisted_path_that_looks_like_a_typo_gets_one_suggestion(capsys: Out, path: str, near: str) -> None:
    assert main(["endpoints", path]) == 0

    assert capsys.readouterr().err == f"{path} is not a listed endpoint. Did you mean {near}?\n"
