"""The claims that a dead process left: released at the next start, and counted against whom they may concern."""

from collections.abc import Mapping

import pytest
from harness.factories import a_delivery, at
from store.conftest import Store, add_deliveries

from receiver.domain.model import DeliveryStatus
from receiver.store.interfaces import RecoveredClaims

SUSPECT_AFTER = 3


async def die_with(store: Store, *delivery_ids: str) -> RecoveredClaims:
    """Claim deliveries, and start again after the process died without a verdict on them."""
    for delivery_id in delivery_ids:
        claimed = await store.deliveries.claim(
            "publish", now=at(1), until=at(600), limit=1, claim=f"of {delivery_id}", only=delivery_id
        )
        assert [each.delivery.id for each in claimed] == [delivery_id]
    return await store.deliveries.release_all(now=at(1), suspect_after=SUSPECT_AFTER)


async def deaths(store: Store) -> Mapping[str, int]:
    views = (await store.catalog.deliveries(limit=100)).items
    return {view.delivery.id: view.delivery.unfinished_claims for view in views}


@pytest.fixture(autouse=True)
async def three_deliveries(store: Store) -> None:
    await add_deliveries(store, *(a_delivery(f"dlv_{n}", event_id=f"evt_{n}", due_at=at(0)) for n in (1, 2, 3)))


async def test_a_left_claim_is_released_and_due(store: Store) -> None:
    assert await die_with(store, "dlv_1", "dlv_2") == RecoveredClaims(released=2, suspects={})

    assert await store.deliveries.due_routes() == {"publish": at(0)}
    claimed = await store.deliveries.claim("publish", now=at(1), until=at(600), limit=9, claim="new")
    assert [each.delivery.id for each in claimed] == ["dlv_3", "dlv_1", "dlv_2"]


async def test_a_released_claim_does_not_count_as_a_crash(store: Store) -> None:
    for _ in range(20):
        await store.deliveries.claim("publish", now=at(1), until=at(600), limit=1, claim="mine", only="dlv_1")
        await store.deliveries.release("dlv_1", claim="mine", now=at(0))
    assert await store.deliveries.release_all(now=at(1), suspect_after=SUSPECT_AFTER) == RecoveredClaims(
        released=0, suspects={}
    )

    assert await deaths(store) == {"dlv_1": 0, "dlv_2": 0, "dlv_3": 0}


async def test_crashes_with_several_attempts_count_only_up_to_the_limit(store: Store) -> None:
    for _ in range(20):
        await die_with(store, "dlv_1", "dlv_2")
    recovered = await die_with(store, "dlv_1", "dlv_2")

    assert await deaths(store) == {"dlv_1": SUSPECT_AFTER, "dlv_2": SUSPECT_AFTER, "dlv_3": 0}
    assert recovered == RecoveredClaims(released=2, suspects={"dlv_1": "publish", "dlv_2": "publish"})


async def test_each_crash_with_one_attempt_counts(store: Store) -> None:
    for _ in range(20):
        await die_with(store, "dlv_1")

    assert await deaths(store) == {"dlv_1": 20, "dlv_2": 0, "dlv_3": 0}


async def test_crashes_counted_alone_stay_counted_after_one_with_others(store: Store) -> None:
    for _ in range(SUSPECT_AFTER + 2):
        await die_with(store, "dlv_1")

    await die_with(store, "dlv_1", "dlv_2")

    assert await deaths(store) == {"dlv_1": SUSPECT_AFTER + 2, "dlv_2": 1, "dlv_3": 0}


async def test_suspects_are_ordered_by_crashes_and_exclude_finished_deliveries(store: Store) -> None:
    await add_deliveries(
        store,
        a_delivery("dlv_9", event_id="evt_9", unfinished_claims=9, status=DeliveryStatus.DEAD, finished_at=at(1)),
        a_delivery("dlv_8", event_id="evt_8", unfinished_claims=8),
    )
    for _ in range(SUSPECT_AFTER - 1):
        await die_with(store, "dlv_1")
    recovered = await die_with(store, "dlv_1")

    assert list(recovered.suspects) == ["dlv_1", "dlv_8"]


async def test_a_claim_skips_the_named_deliveries(store: Store) -> None:
    claimed = await store.deliveries.claim(
        "publish", now=at(1), until=at(600), limit=9, claim="c", skip=["dlv_1", "dlv_3"]
    )

    assert [each.delivery.id for each in claimed] == ["dlv_2"]
