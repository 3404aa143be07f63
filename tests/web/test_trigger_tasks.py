"""A task of `trigger` costs nothing."""

from typing import Any

import pytest
from harness.web_app import WebApp

from receiver.domain.model import Origin

ENDPOINT = "images/multi-image2image"


async def get(web: WebApp, path: str, **query: str) -> Any:
    answer = await web.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def trigger(web: WebApp, state: str) -> str:
    answer = await web.client.post("/api/trigger", json={"state": state, "endpoint": ENDPOINT})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("state", ["succeed", "failed", "rejected", "expired", "processing"])
async def test_a_test_task_has_no_cost(web: WebApp, state: str) -> None:
    task_id = await trigger(web, state)

    task = await get(web, f"/api/tasks/{task_id}")
    assert task["origin"] == Origin.TEST
    assert task["cost"] is None
    for by in ("endpoint", "day", "label", "batch", "tag:test"):
        costs = await get(web, "/api/costs", by=by)
        assert (costs["items"], costs["total"]["tasks"], costs["total"]["charges"]) == ([], 0, {})
