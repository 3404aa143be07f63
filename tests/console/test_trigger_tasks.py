"""How the pages show a task that `trigger` created, and when Kling created a task."""

import re

import pytest
from harness.factories import a_task
from harness.web_app import WebApp

from receiver.domain.model import Origin

pytestmark = pytest.mark.asyncio(loop_scope="session")

RESULTS = "/console/results"


async def page(web: WebApp, path: str) -> str:
    answer = await web.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_test_tasks_are_marked_and_left_out_of_the_results(web: WebApp) -> None:
    answer = await web.client.post("/api/trigger", json={"state": "succeed", "tags": {"project": "ads"}})
    task = answer.json()["id"]

    assert task not in await page(web, RESULTS)
    for path in (f"{RESULTS}?tests=1", f"{RESULTS}?tag=project:ads", "/console/tasks", f"/console/tasks/{task}"):
        shown = await page(web, path)
        assert task in shown, path
        assert re.search(r'class="chip" title="Created by[^>]*>test<', shown), path
    assert "expires at Kling" not in await page(web, f"{RESULTS}?tests=1")


async def test_a_task_shows_the_creation_time_in_its_kling_id(web: WebApp) -> None:
    for number, (kling_id, origin) in enumerate(
        (("867283741759111202", Origin.API), ("made-up", Origin.API), ("867283741759111203", Origin.TEST))
    ):
        task = a_task(id=web.ids.new("tsk"), kling_id=kling_id, external_task_id=str(number), origin=origin)
        await web.store.tasks.add(task, b"{}")

    assert "UTC by its number; a hint" in await page(web, "/console/tasks/867283741759111202")
    assert "probably the gateway" in await page(web, "/console/tasks/made-up")
    assert "by its number" not in await page(web, "/console/tasks/867283741759111203")
