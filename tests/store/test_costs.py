"""What a store promises about costs: what was accepted is kept once per task, and summed exactly."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import pytest
from harness.factories import a_task, at
from store.conftest import Opener, Store, always

from receiver.domain.model import Cost, TaskState
from receiver.domain.replays import CostBy
from receiver.store.interfaces import ById, Change, Litter
from receiver.store.sqlite.costs import CostStore


@pytest.fixture
def costs(store: Store) -> CostStore:
    return of(store)


def of(store: Store) -> CostStore:
    """Give the part of a store that knows of costs."""
    return cast("CostStore", cast("Any", store).costs)


def a_cost(said: str = "{}", **charges: str) -> Cost:
    return Cost(charges={unit: Decimal(amount) for unit, amount in charges.items()}, said=said)


async def spent(store: Store, number: int, cost: Cost, *, ended: float = 0, **task: Any) -> None:
    """Let a task end that has cost something."""
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
    await store.add(over, b"")
    await store.apply(ById(id=id_), always(Change(task=over, cost=cost)))


async def sums(costs: CostStore, by: CostBy, **which: Any) -> list[tuple[str | None, int, Mapping[str, Decimal]]]:
    return [(each.name, each.tasks, each.charges) for each in await costs.spent(by, **which)]


async def test_a_cost_comes_back_as_it_was_stored(opener: Opener) -> None:
    cost = a_cost('{"final_unit_deduction":"1.50"}', units="1.50", list_price="0.000000000000000000000000000001")
    async with opener() as store:
        await spent(store, 1, cost)

    async with opener() as store:
        assert await of(store).find("tsk_1") == cost
        assert str(cost.charges["units"]) == "1.50"
        assert await of(store).find("tsk_2") is None


async def test_of_two_words_the_fuller_one_stands_and_of_two_as_full_the_later(store: Store, costs: CostStore) -> None:
    await spent(store, 1, a_cost(units="1"))
    for cost, stands in [
        (a_cost(units="2", quota="0"), a_cost(units="2", quota="0")),
        (a_cost(units="9"), a_cost(units="2", quota="0")),
        (a_cost(units="3", quota="1"), a_cost(units="3", quota="1")),
    ]:
        await store.apply(ById(id="tsk_1"), always(Change(cost=cost)))
        assert await costs.find("tsk_1") == stands

    assert await sums(costs, CostBy.ENDPOINT) == [
        ("images/multi-image2image", 1, {"units": Decimal(3), "quota": Decimal(1)})
    ]


async def test_costs_are_summed_by_what_tasks_share(store: Store, costs: CostStore) -> None:
    ads = {"project": "ads", "client": "b"}
    await spent(store, 1, a_cost(units="1.5"), tags=ads, label="x", batch="b1")
    await spent(store, 2, a_cost(units="1.5"), tags=ads, label="y", batch="b1", endpoint="videos/text2video")
    await spent(store, 3, a_cost(units="2", list_price="0.1"), tags={"project": "film"}, ended=86_400)
    await spent(store, 4, a_cost(), ended=86_400 * 2)

    assert await sums(costs, CostBy.TAG, tag="project") == [
        (None, 1, {}),
        ("ads", 2, {"units": Decimal("3.0")}),
        ("film", 1, {"units": Decimal(2), "list_price": Decimal("0.1")}),
    ]
    assert [(name, count) for name, count, _ in await sums(costs, CostBy.ENDPOINT)] == [
        ("images/multi-image2image", 3),
        ("videos/text2video", 1),
    ]
    assert [(name, count) for name, count, _ in await sums(costs, CostBy.DAY)] == [
        ("2026-11-22", 2),
        ("2026-11-23", 1),
        ("2026-11-24", 1),
    ]
    assert [(name, count) for name, count, _ in await sums(costs, CostBy.LABEL)] == [(None, 2), ("x", 1), ("y", 1)]
    assert [(name, count) for name, count, _ in await sums(costs, CostBy.BATCH)] == [(None, 2), ("b1", 2)]
    assert [(name, count) for name, count, _ in await sums(costs, CostBy.DAY, since=at(1), until=at(86_401))] == [
        ("2026-11-23", 1)
    ]
    assert [(name, count) for name, count, _ in await sums(costs, CostBy.DAY, until=at(86_400))] == [("2026-11-22", 2)]


async def test_sums_are_exact(store: Store, costs: CostStore) -> None:
    tiny, huge = "0.000000000000000000000000000001", "9" * 30
    for number, amount in enumerate([*["0.1"] * 10, tiny, huge]):
        await spent(store, number, a_cost(units=amount))

    [(_, count, charges)] = await sums(costs, CostBy.DAY)

    assert (count, format(charges["units"], "f")) == (12, "1" + "0" * 30 + "." + "0" * 29 + "1")


async def test_a_cost_goes_with_its_task(store: Store, costs: CostStore) -> None:
    await spent(store, 1, a_cost(units="1"))
    for litter in (Litter.EVENTS, Litter.TASKS):
        await store.sweep(litter, before=at(100), now=at(200))

    assert await costs.find("tsk_1") is None
    assert await sums(costs, CostBy.DAY) == []
