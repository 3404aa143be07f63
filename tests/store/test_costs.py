"""Costs in a store: one per task, summed exactly."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from harness.factories import a_task, at
from store.conftest import Costs, Opener, Store, decide_always

from receiver.domain.costs import Cost, CostGrouping
from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change, RetentionTarget


@pytest.fixture
def costs(store: Store) -> Costs:
    return cost_store(store)


def cost_store(store: Store) -> Costs:
    """Return the cost store."""
    return store.costs


def a_cost(raw: str = "{}", **charges: str) -> Cost:
    return Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, raw=raw)


async def add_finished_task(store: Store, number: int, cost: Cost, *, ended: float = 0, **task: Any) -> None:
    """Store a finished task with a cost."""
    id_ = f"tsk_{number}"
    over = a_task(
        id=id_,
        kling_id=id_,
        external_task_id=id_,
        state=TaskState.SUCCEED,
        due_at=None,
        updated_at=at(ended),
        **task,
    )
    await store.tasks.add(over, b"")
    await store.tasks.apply(ById(id=id_), decide_always(Change(task=over, cost=cost)))


async def totals(costs: Costs, by: CostGrouping, **which: Any) -> list[tuple[str | None, int, Mapping[str, Decimal]]]:
    return [(each.name, each.tasks, each.charges) for each in await costs.totals(by, **which)]


async def test_a_cost_is_read_back_unchanged(opener: Opener) -> None:
    cost = a_cost('{"final_unit_deduction":"1.50"}', units="1.50", list_price="0.000000000000000000000000000001")
    async with opener() as store:
        await add_finished_task(store, 1, cost)

    async with opener() as store:
        assert await cost_store(store).find("tsk_1") == cost
        assert str(cost.charges["units"]) == "1.50"
        assert await cost_store(store).find("tsk_2") is None


async def test_the_more_complete_or_later_cost_is_kept(store: Store, costs: Costs) -> None:
    await add_finished_task(store, 1, a_cost(units="1"))
    for cost, stands in [
        (a_cost(units="2", quota="0"), a_cost(units="2", quota="0")),
        (a_cost(units="9"), a_cost(units="2", quota="0")),
        (a_cost(units="3", quota="1"), a_cost(units="3", quota="1")),
    ]:
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(cost=cost)))
        assert await costs.find("tsk_1") == stands

    assert await totals(costs, CostGrouping.ENDPOINT) == [
        ("images/multi-image2image", 1, {"units": Decimal(3), "quota": Decimal(1)})
    ]


async def test_costs_are_summed_by_group(store: Store, costs: Costs) -> None:
    ads = {"project": "ads", "client": "b"}
    await add_finished_task(store, 1, a_cost(units="1.5"), tags=ads, label="x", batch="b1")
    await add_finished_task(
        store, 2, a_cost(units="1.5"), tags=ads, label="y", batch="b1", endpoint="videos/text2video"
    )
    await add_finished_task(store, 3, a_cost(units="2", list_price="0.1"), tags={"project": "film"}, ended=86_400)
    await add_finished_task(store, 4, a_cost(), ended=86_400 * 2)

    assert await totals(costs, CostGrouping.TAG, tag="project") == [
        (None, 1, {}),
        ("ads", 2, {"units": Decimal("3.0")}),
        ("film", 1, {"units": Decimal(2), "list_price": Decimal("0.1")}),
    ]
    assert [(name, count) for name, count, _ in await totals(costs, CostGrouping.ENDPOINT)] == [
        ("images/multi-image2image", 3),
        ("videos/text2video", 1),
    ]
    assert [(name, count) for name, count, _ in await totals(costs, CostGrouping.DAY)] == [
        ("2026-11-22", 2),
        ("2026-11-23", 1),
        ("2026-11-24", 1),
    ]
    assert [(name, count) for name, count, _ in await totals(costs, CostGrouping.LABEL)] == [
        (None, 2),
        ("x", 1),
        ("y", 1),
    ]
    assert [(name, count) for name, count, _ in await totals(costs, CostGrouping.BATCH)] == [(None, 2), ("b1", 2)]
    assert [
        (name, count) for name, count, _ in await totals(costs, CostGrouping.DAY, since=at(1), until=at(86_401))
    ] == [("2026-11-23", 1)]
    assert [(name, count) for name, count, _ in await totals(costs, CostGrouping.DAY, until=at(86_400))] == [
        ("2026-11-22", 2)
    ]


async def test_sums_are_exact(store: Store, costs: Costs) -> None:
    tiny, huge = "0.000000000000000000000000000001", "9" * 30
    for number, amount in enumerate([*["0.1"] * 10, tiny, huge]):
        await add_finished_task(store, number, a_cost(units=amount))

    [(_, count, charges)] = await totals(costs, CostGrouping.DAY)

    assert (count, format(charges["units"], "f")) == (12, "1" + "0" * 30 + "." + "0" * 29 + "1")


async def test_a_cost_is_deleted_with_its_task(store: Store, costs: Costs) -> None:
    await add_finished_task(store, 1, a_cost(units="1"))
    for target in (RetentionTarget.EVENTS, RetentionTarget.TASKS):
        await store.retention.sweep(target, before=at(100), now=at(200))

    assert await costs.find("tsk_1") is None
    assert await totals(costs, CostGrouping.DAY) == []


async def test_the_newest_charges_of_an_endpoint_are_read_with_their_bodies(store: Store, costs: Costs) -> None:
    for number, endpoint in enumerate(("videos/text2video", "images/generations", "videos/text2video")):
        task = a_task(id=f"tsk_{number}", kling_id=f"k{number}", external_task_id=f"e{number}", endpoint=endpoint)
        await store.tasks.add(task, f'{{"n": {number}}}'.encode())
        await store.tasks.apply(ById(id=task.id), decide_always(Change(cost=a_cost(units=str(number)))))

    assert await costs.newest_charges("videos/text2video") == [
        (b'{"n": 2}', {"units": Decimal(2)}),
        (b'{"n": 0}', {"units": Decimal(0)}),
    ]
