"""Which address the console uses for each result."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.clock import START

from receiver.archive.previews import MAX_PICTURE_BYTES, Previews
from receiver.archive.reader import ArchiveReader
from receiver.store.interfaces import TaskResults
from receiver.web.console.shown_results import ShownTask, shown_task

URL = "https://cdn.example.com/0.png"


def shown(asset: dict[str, Any] | None, *, is_installed: bool = True) -> ShownTask:
    previews = Previews(Path("/nonexistent"), ArchiveReader())
    previews.is_installed = is_installed
    described = {"url": URL, "path": "/r/tsk_1/evt_1/0.png", "sha256": "00" * 32, "bytes": 9, **(asset or {})}
    data: dict[str, Any] = {"result": {"images": [{"index": 0, "url": URL}]}}
    if asset is not None:
        data["assets"] = [described]
    envelope = json.dumps({"data": data}).encode()
    return shown_task(TaskResults(task_id="tsk_1", event_id="evt_1", created_at=START, envelope=envelope), previews)


def test_a_picture_is_shown_by_its_thumbnail_and_without_the_extra_by_itself() -> None:
    picture = {"content_type": "image/png"}

    [small] = shown(picture).results
    [large] = shown(picture, is_installed=False).results

    assert (small.path, small.thumbnail) == ("/results/tsk_1/0.png", "/results/tsk_1/0.preview.webp")
    assert (large.path, large.thumbnail) == ("/results/tsk_1/0.png", "/results/tsk_1/0.png")


def test_a_picture_too_large_for_a_thumbnail_is_shown_by_itself() -> None:
    [result] = shown({"content_type": "image/png", "bytes": MAX_PICTURE_BYTES + 1}).results

    assert result.thumbnail == result.path


@pytest.mark.parametrize("type_", ["image/svg+xml", "text/html", "application/octet-stream"])
def test_another_file_is_never_shown_as_a_picture(type_: str) -> None:
    task = shown({"content_type": type_})

    assert [(each.kind, each.path, each.thumbnail) for each in task.results] == [("file", "/results/tsk_1/0.bin", None)]
    assert task.cover is None


def test_a_result_that_is_not_archived_expires_at_kling() -> None:
    missing, archived = shown(None), shown({"content_type": "image/png"})

    assert [(each.path, each.url) for each in missing.results] == [(None, URL)]
    assert missing.expires_at == START + timedelta(days=30)
    assert archived.expires_at is None
