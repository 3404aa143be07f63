"""What Kling can be asked for, told without a service or a configuration."""

import json

import pytest

from receiver.cli import main
from receiver.kling.endpoints import CATALOGUE

Out = pytest.CaptureFixture[str]


def test_every_endpoint_of_the_catalogue_is_told(capsys: Out) -> None:
    assert main(["endpoints"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    assert [cells[0] for cells in lines] == list(CATALOGUE)
    told = {cells[0]: cells[1:] for cells in lines}
    assert told["images/generations"] == [
        "legacy",
        "image",
        "n",
        "images",
        "yes",
        "GET /v1/images/generations/{id}",
    ]
    assert told["text-to-video/{model}"][:3] == ["new", "video", "1"]
    assert told["audio/tts"] == ["legacy", "", "", "audios", "no", ""]


def test_programs_get_the_catalogue_as_a_list_like_any_other(capsys: Out) -> None:
    assert main(["endpoints", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)

    assert told == {"items": [endpoint.describe() for endpoint in CATALOGUE.values()], "next": None}


@pytest.mark.parametrize(
    "path", ["text-to-video/kling-9", "omni-video/o3", "/v1/videos/something-new", "videos/identify-face"]
)
def test_one_that_is_listed_or_not_can_be_looked_at(capsys: Out, path: str) -> None:
    assert main(["endpoints", path, "--json"]) == 0

    told = json.loads(capsys.readouterr().out)

    assert told["path"] == path.removeprefix("/v1/")
    assert told["asynchronous"] == (path != "videos/identify-face")


def test_a_path_that_makes_no_task_is_no_endpoint_and_the_nearest_is_named(capsys: Out) -> None:
    assert main(["endpoints", "images/generation/8672"]) == 2

    assert "Did you mean images/generations?" in capsys.readouterr().err
