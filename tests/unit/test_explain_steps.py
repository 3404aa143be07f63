"""The create, Kling's answer and the downloads of a task, as `explain` names them."""

import json
from typing import Any

import pytest
from harness.factories import a_task, an_event, at

from receiver.domain.model import ArchiveState, Event, Origin, Task, TaskState
from receiver.tasks.explain_steps import task_steps

URLS = ["https://cdn.example/0.png?signature=s", "https://cdn.example/1.png"]
STORED = {"url": URLS[0], "path": "/var/0.png", "storage": None, "sha256": "0", "bytes": 9, "content_type": "image/png"}


def lines(task: Task, *events: Event) -> list[tuple[str, str, str]]:
    return [(step.kind, step.state, step.text) for step in task_steps(task, events)]


def an_end(*, assets: list[dict[str, Any]] | None = None, archiving: ArchiveState | None = None) -> Event:
    data = {"result": {"images": [{"url": url} for url in URLS]}} | ({"assets": assets} if assets else {})
    envelope = json.dumps({"type": "task.succeed", "data": data}).encode()
    return an_event(envelope=envelope, archiving=archiving)


def a_loss(reason: str) -> Event:
    results = [{"number": 1, "url": URLS[1], "reason": reason, "still_tried": False}]
    envelope = json.dumps({"data": {"event": "evt_1", "results": results}}).encode()
    return an_event("evt_2", type="alert.asset_lost", envelope=envelope)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": TaskState.QUEUED, "kling_id": None}, []),
        (
            {"state": TaskState.QUEUED, "kling_id": None, "message": "all slots are taken"},
            [("answer", "not yet", "all slots are taken")],
        ),
        (
            {"state": TaskState.SUBMITTED, "kling_id": "k1", "started_at": at(1)},
            [("create", "sent", "to Kling"), ("answer", "accepted", "as Kling's task k1")],
        ),
        (
            {"state": TaskState.REJECTED, "kling_id": None, "message": "1301: content", "started_at": at(1)},
            [("create", "sent", "to Kling"), ("answer", "rejected", "1301: content")],
        ),
    ],
)
def test_the_create_and_the_answer_have_lines(fields: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    task = a_task(origin=Origin.API, **fields)

    first, *others = lines(task)

    assert first == ("create", "stored", f"{task.endpoint}, stored from the API")
    assert others == expected


def test_a_callback_url_has_no_create() -> None:
    task = a_task(origin=Origin.MINTED, endpoint=None, kling_id="k1")

    assert lines(task) == [
        ("create", "stored", "unknown endpoint, callback URL created, for a job that is submitted elsewhere")
    ]


def test_each_download_has_a_line_with_its_place_or_the_reason_it_is_missing() -> None:
    task = a_task(state=TaskState.SUCCEED)

    given_up = lines(task, an_end(assets=[STORED]), a_loss("404 Not Found"))
    pending = lines(task, an_end(archiving=ArchiveState.PENDING))

    downloads = [line for line in given_up if line[0] == "download"]
    assert downloads == [
        ("download", "stored", "/var/0.png, 9 bytes"),
        ("download", "given up", "https://cdn.example/1.png: 404 Not Found"),
    ]
    assert [line[1:] for line in pending if line[0] == "download"] == [
        ("pending", "https://cdn.example/0.png"),
        ("pending", "https://cdn.example/1.png"),
    ]


def test_without_an_archive_there_is_no_download() -> None:
    assert [line for line in lines(a_task(state=TaskState.SUCCEED), an_end()) if line[0] == "download"] == []
