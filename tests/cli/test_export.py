"""An export never takes another task's file for its own, and lists the tasks of several batches in one manifest."""

import json
from pathlib import Path
from typing import Any

import pytest

from receiver.cli.export import export
from receiver.cli.options import ClientOptions, UsageError
from receiver.client import Task

OPTIONS = ClientOptions()


def an_ended_task(folder: Path, task_id: str, *, label: str = "hero", results: int = 1, content: str = "") -> Task:
    """Return a task with results that are archived, each with content of its own."""
    entries, assets = [], []
    for number in range(results):
        path, url = folder / f"{task_id}-{number}.png", f"https://kling.test/{task_id}/{number}.png"
        path.write_text(content or f"{task_id} {number}")
        entries.append({"url": url})
        assets.append({"url": url, "path": str(path)})
    return Task.from_json(
        {
            "id": task_id,
            "label": label,
            "state": "succeed",
            "endpoint": "images/generations",
            "message": "",
            "result": {"images": entries},
            "assets": assets,
        }
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Return the text of each exported file."""
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith("manifest.")}


def manifest(folder: Path) -> list[tuple[Any, ...]]:
    entries = json.loads((folder / "manifest.json").read_text())
    return [(entry["task"], entry["file"]) for entry in entries]


def test_two_batches_with_the_same_label_keep_their_own_files(tmp_path: Path, archive: Path) -> None:
    first, second = an_ended_task(archive, "tsk_1"), an_ended_task(archive, "tsk_2", label="Hero")
    for task in (first, second, first, second):
        assert export([task], tmp_path / "out", OPTIONS) == 0

    assert contents(tmp_path / "out") == {"hero.png": "tsk_1 0", "Hero-tsk_2.png": "tsk_2 0"}
    assert sorted(manifest(tmp_path / "out")) == [("tsk_1", "hero.png"), ("tsk_2", "Hero-tsk_2.png")]


def test_several_results_are_numbered_after_the_id(tmp_path: Path, archive: Path) -> None:
    export([an_ended_task(archive, "tsk_1", results=2)], tmp_path / "out", OPTIONS)
    export([an_ended_task(archive, "tsk_2", results=2)], tmp_path / "out", OPTIONS)

    assert contents(tmp_path / "out") == {
        "hero-1.png": "tsk_1 0",
        "hero-2.png": "tsk_1 1",
        "hero-tsk_2-1.png": "tsk_2 0",
        "hero-tsk_2-2.png": "tsk_2 1",
    }


def test_a_file_of_unknown_origin_is_neither_taken_nor_replaced(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "hero.jpg").write_text("mine")

    export([an_ended_task(archive, "tsk_1")], tmp_path / "out", OPTIONS)

    assert contents(tmp_path / "out") == {"hero.jpg": "mine", "hero-tsk_1.png": "tsk_1 0"}


def test_an_export_that_was_killed_resumes_with_its_own_files(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [an_ended_task(archive, "tsk_1"), an_ended_task(archive, "tsk_2", label="other")]
    with monkeypatch.context() as patch:
        patch.setattr("receiver.cli.export._write_manifests", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(tasks[:1], tmp_path / "out", OPTIONS)

    assert export(tasks, tmp_path / "out", OPTIONS) == 0

    assert contents(tmp_path / "out") == {"hero.png": "tsk_1 0", "other.png": "tsk_2 0"}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_manifest_of_something_else_is_refused(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')

    with pytest.raises(UsageError, match="is not of an earlier export"):
        export([an_ended_task(archive, "tsk_1")], tmp_path, OPTIONS)

    assert (tmp_path / "manifest.json").read_text() == '{"name": "an app"}'
