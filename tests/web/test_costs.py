"""What tasks have cost, over HTTP, over a real store."""

from decimal import Decimal
from typing import Any

import pytest
from harness.factories import a_task, at
from harness.web_app import House

from receiver.domain.model import Cost, TaskState
from receiver.store.interfaces import ById, Change
from receiver.web.resources.costs import MOST_SUMS


async def spent(house: House, number: int, *, ended: float = 0, said: str = "{}", **charges: str) -> None:
    """Keep a task that has cost something."""
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
    await house.store.add(task, b"")
    cost = Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, said=said)
    await house.store.apply(ById(id=name), lambda *_: Change(task=task, cost=cost))


async def sums(house: House, query: str = "") -> Any:
    answer = await house.client.get(f"/api/costs{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_costs_are_summed_by_what_is_asked_for_and_all_in_all(house: House) -> None:
    await spent(house, 1, units="1.50", list_price="0.1")
    await spent(house, 2, units="2")
    await spent(house, 3, units="0.5", ended=86_400)

    assert await sums(house, "?by=tag:project") == {
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
    by_day = await sums(house, "?by=day&from=2026-11-23T00:00:00Z&to=2026-11-24T00:00:00Z")
    assert by_day["items"] == [{"name": "2026-11-23", "tasks": 1, "charges": {"units": "0.5"}}]
    assert (by_day["from"], by_day["total"]["tasks"]) == ("2026-11-23T00:00:00.000Z", 1)
    assert [each["name"] for each in (await sums(house))["items"]] == ["images/multi-image2image"]
    assert (await sums(house, "?by=batch"))["items"][0]["name"] is None


async def test_a_task_shows_what_it_cost_and_in_which_words(house: House) -> None:
    await spent(house, 1, units="1.50", said='{"final_unit_deduction":"1.50","billing":"odd"}')

    shown = (await house.client.get("/api/tasks/tsk_1")).json()

    assert shown["cost"] == {
        "charges": {"units": "1.50"},
        "said": {"final_unit_deduction": "1.50", "billing": "odd"},
    }


async def test_of_very_many_names_the_total_is_of_all(house: House) -> None:
    for number in range(MOST_SUMS + 5):
        await spent(house, number, units="1")

    answer = await sums(house, "?by=label")

    assert (len(answer["items"]), answer["left_out"]) == (MOST_SUMS, 5)
    assert answer["total"] == {"name": None, "tasks": MOST_SUMS + 5, "charges": {"units": str(MOST_SUMS + 5)}}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("by=colour", "tag:NAME"),
        ("by=tag", "tag:NAME"),
        ("by=tag:", "tag:NAME"),
        ("by=day:2", "tag:NAME"),
        ("from=yesterday", "is a moment with its zone"),
        ("to=2026-11-22T10:00:00", "is a moment with its zone"),
        ("to=9999-12-31T23:59:59-12:00", "is a moment with its zone"),
        ("since=x", "'since'"),
    ],
)
async def test_what_cannot_be_summed_is_said(house: House, query: str, says: str) -> None:
    answer = await house.client.get(f"/api/costs?{query}")

    assert answer.status_code == 400
    assert says in answer.json()["detail"]
