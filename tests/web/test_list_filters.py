"""Filters of the lists: by time, and by the state of a cancelled task."""

from datetime import timedelta
from typing import Any

import pytest
from harness.web_app import WebApp
from starlette.responses import JSONResponse

TASK = {"endpoint": "images/multi-image2image", "body": {"prompt": "x"}, "batch": "spring"}
FULL = {"code": 1303, "message": "Too many."}


async def items(web: WebApp, path: str, **query: str) -> list[dict[str, Any]]:
    answer = await web.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def cancel_one_of_two(web: WebApp) -> None:
    """Submit two tasks while no slot is free, and cancel the first."""
    web.kling.answer = lambda _: JSONResponse(FULL, 429)
    first, _ = [(await web.client.post("/api/tasks", json=TASK)).json() for _ in range(2)]
    assert (await web.client.post(f"/api/tasks/{first['id']}/cancel", json={})).json()["state"] == "cancelled"


async def test_the_state_cancelled_is_listed_filtered_and_counted(web: WebApp) -> None:
    await cancel_one_of_two(web)

    counts = (await web.client.get("/api/tasks/counts")).json()["counts"]
    for state, count in counts.items():
        assert [each["state"] for each in await items(web, "/api/tasks", state=state)] == [state] * count
    assert {state: count for state, count in counts.items() if count} == {"queued": 1, "cancelled": 1}
    assert (await web.client.get("/api/batches/spring")).json()["counts"] == {"queued": 1, "cancelled": 1}
    assert [each["type"] for each in await items(web, "/api/events")] == ["task.rejected"]
    metrics = (await web.client.get("/metrics")).text
    assert 'kling_receiver_tasks{state="cancelled"} 1' in metrics
    assert 'kling_receiver_tasks{state="rejected"} 0' in metrics


@pytest.mark.parametrize("path", ["/api/tasks", "/api/events", "/api/deliveries", "/api/alerts"])
async def test_a_list_is_filtered_by_time(web: WebApp, path: str) -> None:
    await web.client.post("/api/tasks", json=TASK)
    await web.client.post("/api/trigger", json={"state": "succeed"})
    await web.client.post("/api/routes/publish/hold", json={})
    now = web.clock.now()
    before, after = ((now + timedelta(hours=hours)).isoformat() for hours in (-1, 1))

    everything = await items(web, path)

    assert everything
    assert await items(web, path, **{"from": before, "to": after}) == everything
    assert await items(web, path, **{"from": before.replace("+00:00", "Z")}) == everything
    assert await items(web, path, **{"from": after}) == await items(web, path, to=before) == []


async def test_a_time_without_a_zone_is_refused(web: WebApp) -> None:
    answer = await web.client.get("/api/tasks", params={"from": "2026-11-22T10:00:00"})

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("'from' must be a timestamp with a UTC offset, such as 2026-11-22T")


@pytest.mark.parametrize("day", ["9999-12-31", "2026-11-30T10:00", "1700000000", "2026-13-01"])
@pytest.mark.parametrize("path", ["/console/results", "/console/results.zip"])
async def test_an_invalid_day_of_results_is_refused(web: WebApp, path: str, day: str) -> None:
    answer = await web.client.get(path, params={"day": day})

    assert answer.status_code == 400
    assert "'day' must be a day, such as 2026-11-30" in answer.json()["detail"]
