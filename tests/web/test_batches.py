"""Batches over HTTP, over a real store."""

from typing import Any

import pytest
from harness.factories import a_task, an_event
from harness.web_app import WebApp

from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change

JOB = {"endpoint": "images/multi-image2image", "body": {"prompt": "a cat"}}


async def create(web: WebApp, batch: object, *, status: int = 202, **members: object) -> Any:
    answer = await web.client.post("/api/tasks", json={**JOB, "batch": batch, **members})
    assert answer.status_code == status, answer.text
    return answer.json()


async def get_json(web: WebApp, path: str, *, status: int = 200) -> Any:
    answer = await web.client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_batch_is_shown_with_its_task_counts(web: WebApp) -> None:
    first = await create(web, "spring")
    await create(web, {"name": "spring", "size": 3})
    await create(web, None)

    shown = await get_json(web, "/api/batches/spring")

    assert first["batch"] == "spring"
    assert shown == {
        "name": "spring",
        "state": "open",
        "size": 3,
        "tasks": 2,
        "counts": {"submitted": 2},
        "created_at": "2026-11-22T10:00:00.000Z",
        "closed_at": None,
        "finished_at": None,
        "event_id": None,
    }
    assert await get_json(web, "/api/batches") == {"items": [shown], "next": None}
    assert await get_json(web, "/api/batches?state=closed") == {"items": [], "next": None}
    assert [task["batch"] for task in (await get_json(web, "/api/tasks?batch=spring"))["items"]] == ["spring", "spring"]
    assert [task["batch"] for task in (await get_json(web, "/api/tasks"))["items"]] == [None, "spring", "spring"]


async def test_a_closed_batch_refuses_a_task_and_stores_nothing(web: WebApp) -> None:
    await create(web, "spring", idempotency_key="k1")
    closed = await web.client.post(
        "/api/batches/spring/close", json={"why": "all in"}, headers={"kling-receiver-actor": "alice"}
    )
    again = await web.client.post("/api/batches/spring/close")

    refused = await create(web, "spring", status=409)
    known = await create(web, "spring", idempotency_key="k1")

    assert (closed.json()["state"], again.json()) == ("closed", closed.json())
    assert (refused["code"], refused["detail"].startswith("Batch spring is closed: it has its 1 task.")) == (
        "conflict",
        True,
    )
    assert "Use another batch for the task" in refused["detail"]
    assert known["batch"] == "spring"
    assert len(web.kling.bodies) == 1, "what is refused is not sent"
    assert [(each.actor, each.verb, each.subject, each.reason) for each in await web.store.catalog.actions()] == [
        ("alice", "batch.closed", "spring", "all in")
    ]


async def test_an_unknown_batch_is_not_found(web: WebApp) -> None:
    assert (await get_json(web, "/api/batches/none", status=404))["code"] == "not_found"
    assert (await web.client.post("/api/batches/none/close")).status_code == 404


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (7, "'batch' must be a name, or an object with a name and a size; found a number."),
        ({"size": 3}, "'batch' must be a name, or an object with a name"),
        ("a/b", "'batch.name' must be at most 100 letters, digits"),
        ("..", "'batch.name' must be at most 100 letters, digits"),
        ("x" * 101, "at most 100"),
        ({"name": "b", "size": 0}, "from 1 to"),
        ({"name": "b", "size": True}, "from 1 to"),
        ({"name": "b", "size": "50"}, "from 1 to"),
        ({"name": "b", "count": 3}, "'count'"),
    ],
)
async def test_an_invalid_batch_name_is_refused(web: WebApp, batch: object, message: str) -> None:
    refused = await create(web, batch, status=400)

    assert message in refused["detail"]
    assert (await get_json(web, "/api/tasks"))["items"] == []


async def test_a_large_batchs_other_tasks_are_found_by_their_events(web: WebApp) -> None:
    for number, name in enumerate(["spring", "spring", "other"]):
        task = await web.store.tasks.add(
            a_task(
                id=f"tsk_{number}",
                kling_id=None,
                external_task_id=None,
                state=TaskState.FAILED,
                batch=name,
                due_at=None,
            ),
            b"",
        )
        ends = [an_event(f"evt_{number}", task_id=task.id, type="task.failed", envelope=b'{"data":{}}', body=b"")]
        await web.store.tasks.apply(ById(id=task.id), lambda *_, ends=ends: Change(events=ends))

    answer = await get_json(web, "/api/events?batch=spring&type=task.succeed,task.failed,task.rejected,task.expired")

    assert len(answer["items"]) == 2
