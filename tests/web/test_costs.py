"""The costs of tasks over HTTP, from a real store."""

import json
from decimal import Decimal
from typing import Any

import pytest
from harness.factories import a_task, at
from harness.web_app import WebApp

from receiver.domain.costs import Cost
from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change
from receiver.web.resources.costs import MAX_TOTALS


async def add_finished_task(web: WebApp, number: int, *, ended: float = 0, raw: str = "{}", **charges: str) -> None:
    """Store a finished task with a cost."""
    name = f"tsk_{number}"
    task = a_task(
        id=name,
        kling_id=name,
        external_task_id=name,
        state=TaskState.SUCCEED,
        updated_at=at(ended),
        label=name,
        tags={"project": "ads" if number % 2 else "film"},
    )
    await web.store.tasks.add(task, b"")
    cost = Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, raw=raw)
    await web.store.tasks.apply(ById(id=name), lambda *_: Change(task=task, cost=cost))


async def totals(web: WebApp, query: str = "") -> Any:
    answer = await web.client.get(f"/api/costs{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_costs_are_summed_by_group_and_in_total(web: WebApp) -> None:
    await add_finished_task(web, 1, units="1.50", list_price="0.1")
    await add_finished_task(web, 2, units="2")
    await add_finished_task(web, 3, units="0.5", ended=86_400)

    assert await totals(web, "?by=tag:project") == {
        "by": "tag:project",
        "from": None,
        "to": None,
        "items": [
            {"name": "ads", "tasks": 2, "charges": {"list_price": "0.1", "units": "2.00"}},
            {"name": "film", "tasks": 1, "charges": {"units": "2"}},
        ],
        "left_out": 0,
        "total": {"name": None, "tasks": 3, "charges": {"list_price": "0.1", "units": "4.00"}},
    }
    by_day = await totals(web, "?by=day&from=2026-11-23T00:00:00Z&to=2026-11-24T00:00:00Z")
    assert by_day["items"] == [{"name": "2026-11-23", "tasks": 1, "charges": {"units": "0.5"}}]
    assert (by_day["from"], by_day["total"]["tasks"]) == ("2026-11-23T00:00:00.000Z", 1)
    assert [each["name"] for each in (await totals(web))["items"]] == ["images/multi-image2image"]
    assert (await totals(web, "?by=batch"))["items"][0]["name"] is None


async def test_a_task_shows_its_cost_in_klings_words(web: WebApp) -> None:
    await add_finished_task(web, 1, units="1.50", raw='{"final_unit_deduction":"1.50","billing":"odd"}')

    shown = (await web.client.get("/api/tasks/tsk_1")).json()

    assert shown["cost"] == {
        "charges": {"units": "1.50"},
        "said": {"final_unit_deduction": "1.50", "billing": "odd"},
    }


async def test_the_total_includes_groups_that_are_left_out(web: WebApp) -> None:
    for number in range(MAX_TOTALS + 5):
        await add_finished_task(web, number, units="1")

    answer = await totals(web, "?by=label")

    assert (len(answer["items"]), answer["left_out"]) == (MAX_TOTALS, 5)
    assert answer["total"] == {"name": None, "tasks": MAX_TOTALS + 5, "charges": {"units": str(MAX_TOTALS + 5)}}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("by=colour", "tag:NAME"),
        ("by=tag", "tag:NAME"),
        ("by=tag:", "tag:NAME"),
        ("by=day:2", "tag:NAME"),
        ("from=yesterday", "must be a timestamp with a UTC offset"),
        ("to=2026-11-22T10:00:00", "must be a timestamp with a UTC offset"),
        ("to=9999-12-31T23:59:59-12:00", "must be a timestamp with a UTC offset"),
        ("since=x", "'since'"),
    ],
)
async def test_an_invalid_grouping_is_explained(web: WebApp, query: str, message: str) -> None:
    answer = await web.client.get(f"/api/costs?{query}")

    assert answer.status_code == 400
    assert message in answer.json()["detail"]


async def add_charged_video(web: WebApp, number: int, mode: str, **charges: str) -> None:
    """Store a video of a mode with its charges."""
    name = f"tsk_{number:04}"
    task = a_task(id=name, kling_id=name, external_task_id=name, endpoint="videos/text2video", state=TaskState.SUCCEED)
    await web.store.tasks.add(task, json.dumps({"prompt": f"cat {number}", "mode": mode}).encode())
    cost = Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, raw="{}")
    await web.store.tasks.apply(ById(id=name), lambda *_: Change(task=task, cost=cost))


async def estimate(web: WebApp, endpoint: str = "videos/text2video", **body: object) -> Any:
    answer = await web.client.post("/api/costs/estimate", json={"endpoint": endpoint, "body": body})
    return answer.json()


async def test_the_cost_of_a_job_is_estimated_from_tasks_like_it(web: WebApp) -> None:
    for number, units in enumerate(("9", "0.6", "0.8", "0.7")):
        await add_charged_video(web, number, "pro", units=units, quota="0")
    await add_charged_video(web, 50, "std", units="0.2")

    assert await estimate(web, prompt="another", mode="pro") == {
        "endpoint": "videos/text2video",
        "model": "kling-v1",
        "pack": "video",
        "slots": 1,
        "charges": {"units": "0.75"},
        "tasks": 4,
        "summary": "about 0.75 units (median of 4 like it)",
    }
    assert (await estimate(web, mode="std"))["charges"] == {"units": "0.2"}


async def test_units_and_money_are_never_mixed(web: WebApp) -> None:
    for number in range(5):
        await add_charged_video(web, number, "pro", units="10")
    await add_charged_video(web, 7, "pro", USD="0.14")

    assert (await estimate(web, mode="pro"))["summary"] == "about 0.14 USD (median of 1 like it)"


async def test_an_unknown_price_is_reported_as_unknown(web: WebApp) -> None:
    await add_charged_video(web, 1, "pro", units="10")

    for body in ({"mode": "pro", "model_name": "kling-v2-6"}, {"mode": "pro", "sound": "on"}, {}):
        unknown = await estimate(web, **body)
        assert (unknown["charges"], unknown["tasks"]) == ({}, 0)
        assert unknown["summary"].startswith("unknown: ")


async def test_an_estimate_of_an_unknown_endpoint_is_refused(web: WebApp) -> None:
    refused = await estimate(web, "audio/tts")

    assert refused["status"] == 400
    assert "'audio/tts'" in refused["detail"]


@pytest.mark.parametrize(
    ("since", "until", "status"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z", 400),
        (None, "0001-01-01T00:00:00Z", 400),
        ("1969-12-31T00:00:00Z", "1970-01-02T00:00:00Z", 200),
        ("9999-12-01T00:00:00Z", "9999-12-31T23:59:59Z", 200),
    ],
)
async def test_a_bill_check_of_any_period_is_answered(web: WebApp, since: str | None, until: str, status: int) -> None:
    answer = await web.client.post("/api/costs/check", json={"from": since, "to": until})

    assert answer.status_code == status, answer.text
