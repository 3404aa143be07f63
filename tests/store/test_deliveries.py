"""The delivery queue of a store: claims, attempts, releases and route states."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import Store, add_deliveries, add_route_deliveries

from receiver.domain.errors import Conflict
from receiver.domain.model import ArchiveState, Attempt, Delivery, DeliveryStatus, HeldBy, RouteState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import RouteClaim

DELIVERED = Verdict(status=DeliveryStatus.DELIVERED, due_at=at(5), finished_at=at(5))
AGAIN = Verdict(status=DeliveryStatus.PENDING, due_at=at(30))


def an_attempt(delivery_id: str = "dlv_1", number: int = 1, **changes: Any) -> Attempt:
    given: dict[str, Any] = {
        "started_at": at(4),
        "duration": timedelta(microseconds=1500),
        "outcome": "accepted",
        "code": 204,
        "reason": "",
        "excerpt": b"\x00ok",
    }
    return Attempt(delivery_id=delivery_id, number=number, **(given | changes))


async def get_delivery(store: Store, delivery_id: str) -> Delivery:
    view = await store.catalog.delivery(delivery_id)
    assert view is not None
    return view.delivery


async def test_due_routes_have_their_next_due_time(store: Store) -> None:
    assert await store.deliveries.due_routes() == {}

    await add_deliveries(
        store,
        a_delivery("dlv_1", route="b", due_at=at(9)),
        a_delivery("dlv_2", route="b", due_at=at(5), event_id="evt_2"),
        a_delivery("dlv_3", route="a", due_at=at(7)),
        a_delivery("dlv_4", route="reply:client.example", due_at=at(1)),
        a_delivery("dlv_5", route="done", status=DeliveryStatus.DELIVERED, finished_at=at(1)),
    )

    assert await store.deliveries.due_routes() == {"a": at(7), "b": at(5), "reply:client.example": at(1)}


async def test_a_claim_has_everything_its_sender_needs(store: Store) -> None:
    event = an_event()
    await store.tasks.add(a_task(reply_to="https://client.example/hook"), b"", events=[event])
    await store.tasks.add_events([], [a_delivery(attempts=2)])

    [claimed] = await store.deliveries.claim("publish", now=at(1), until=at(60), limit=5, claim="mine")

    expected = a_delivery(attempts=2, due_at=at(60), claim="mine")
    assert (claimed.delivery, claimed.event, claimed.reply_to) == (expected, event, "https://client.example/hook")
    assert await get_delivery(store, "dlv_1") == expected


async def test_longest_due_deliveries_are_claimed_up_to_the_limit(store: Store) -> None:
    due = {"dlv_1": 5, "dlv_2": 3, "dlv_3": 3, "dlv_4": 1, "dlv_5": 100}
    await add_deliveries(
        store, *(a_delivery(id_, event_id=f"evt_{id_}", due_at=at(seconds)) for id_, seconds in due.items())
    )

    claims = [
        await store.deliveries.claim("publish", now=at(10), until=at(60), limit=3, claim=f"c{n}") for n in range(3)
    ]

    assert [[one.delivery.id for one in claim] for claim in claims] == [["dlv_4", "dlv_2", "dlv_3"], ["dlv_1"], []]


async def test_a_claim_is_limited_to_its_route(store: Store) -> None:
    await add_deliveries(store, a_delivery("dlv_1", route="a"), a_delivery("dlv_2", route="b"))

    claimed = await store.deliveries.claim("a", now=at(1), until=at(60), limit=9, claim="c")

    assert [one.delivery.id for one in claimed] == ["dlv_1"]


async def test_several_routes_are_claimed_at_once(store: Store) -> None:
    for route in ("a", "b", "c"):
        await add_route_deliveries(store, 3, route=route)
    [skipped] = await store.deliveries.claim("b", now=at(1), until=at(2), limit=1, claim="before")
    wanted = [
        RouteClaim(route="a", until=at(60), limit=2, claim="mine"),
        RouteClaim(route="b", until=at(90), limit=9, claim="yours"),
        RouteClaim(route="unknown", until=at(90), limit=9, claim="none"),
    ]

    found = await store.deliveries.claim_routes(wanted, now=at(5), skip=[skipped.delivery.id])

    claims = {
        route: [(each.delivery.claim, each.delivery.due_at) for each in one] for route, one in found.claimed.items()
    }
    assert claims == {"a": [("mine", at(60))] * 2, "b": [("yours", at(90))] * 2, "unknown": []}
    assert found.due_routes == await store.deliveries.due_routes()
    assert found.due_routes == {"a": at(0), "b": at(2), "c": at(0)}


async def test_concurrent_claims_never_share_a_delivery(store: Store) -> None:
    await add_route_deliveries(store, 200)

    claims = [store.deliveries.claim("publish", now=at(1), until=at(60), limit=7, claim=f"c{n}") for n in range(40)]
    taken = [one.delivery for claim in await asyncio.gather(*claims) for one in claim]

    assert len(taken) == 200
    assert len({delivery.id for delivery in taken}) == 200
    for delivery in taken[::20]:
        assert (await get_delivery(store, delivery.id)).claim == delivery.claim


async def test_an_expired_lease_makes_the_delivery_due_again(store: Store) -> None:
    await add_route_deliveries(store, 1)
    [first] = await store.deliveries.claim("publish", now=at(1), until=at(60), limit=9, claim="first")

    assert await store.deliveries.due_routes() == {"publish": at(60)}
    assert await store.deliveries.claim("publish", now=at(59), until=at(99), limit=9, claim="early") == []
    [second] = await store.deliveries.claim("publish", now=at(60), until=at(120), limit=9, claim="second")

    assert second.delivery.id == first.delivery.id
    assert second.delivery.unfinished_claims == 0


async def test_a_verdict_is_recorded_with_its_attempt(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")

    assert await store.deliveries.record_attempt(an_attempt(), DELIVERED, claim="mine") is True

    assert await get_delivery(store, "dlv_1") == a_delivery(
        status=DeliveryStatus.DELIVERED, due_at=at(5), finished_at=at(5), attempts=1
    )
    assert await store.catalog.attempts("dlv_1") == [an_attempt()]
    assert await store.deliveries.due_routes() == {}


async def test_a_failed_attempt_keeps_the_delivery_pending(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")

    await store.deliveries.record_attempt(
        an_attempt(outcome="failed", code=None, reason="refused"), AGAIN, claim="mine"
    )

    assert await get_delivery(store, "dlv_1") == a_delivery(due_at=at(30), attempts=1)
    assert await store.deliveries.due_routes() == {"publish": at(30)}


async def test_an_attempt_under_an_old_claim_is_not_stored(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="late")
    await store.deliveries.claim("publish", now=at(60), until=at(120), limit=1, claim="new")
    before = await get_delivery(store, "dlv_1")

    state = RouteState(name="publish", failures=1)
    assert await store.deliveries.record_attempt(an_attempt(), DELIVERED, claim="late", route=state) is False

    assert await get_delivery(store, "dlv_1") == before
    assert await store.catalog.attempts("dlv_1") == []
    assert await store.deliveries.route_states() == {}


async def test_one_of_two_concurrent_verdicts_is_stored(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")

    results = await asyncio.gather(
        store.deliveries.record_attempt(an_attempt(), DELIVERED, claim="other"),
        store.deliveries.record_attempt(an_attempt(), DELIVERED, claim="mine"),
        store.deliveries.record_attempt(an_attempt(), AGAIN, claim="mine"),
        store.deliveries.release("dlv_1", claim="mine", now=at(2)),
    )

    assert list(results) == [False, True, False, False]
    assert (await get_delivery(store, "dlv_1")).status is DeliveryStatus.DELIVERED


async def test_concurrent_verdicts_reach_their_own_deliveries(store: Store) -> None:
    await add_route_deliveries(store, 100)
    claimed = await store.deliveries.claim("publish", now=at(1), until=at(60), limit=100, claim="mine")

    verdicts = [
        store.deliveries.record_attempt(
            an_attempt(one.delivery.id, reason=one.delivery.id), AGAIN if n % 3 else DELIVERED, claim="mine"
        )
        for n, one in enumerate(claimed)
    ]

    assert await asyncio.gather(*verdicts) == [True] * 100
    for n, one in enumerate(claimed[:10]):
        [attempt] = await store.catalog.attempts(one.delivery.id)
        assert attempt.reason == one.delivery.id
        assert (await get_delivery(store, one.delivery.id)).status.value == ("pending" if n % 3 else "delivered")


async def test_a_verdict_that_contradicts_itself_is_refused(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")

    with pytest.raises(Conflict):
        await store.deliveries.record_attempt(
            an_attempt(), Verdict(status=DeliveryStatus.DELIVERED, due_at=at(1), finished_at=None), claim="mine"
        )

    assert (await get_delivery(store, "dlv_1")).claim == "mine"


async def test_a_final_delivery_never_changes(store: Store) -> None:
    final = a_delivery(status=DeliveryStatus.DEAD, finished_at=at(1))
    await add_deliveries(store, final)

    assert await store.deliveries.claim("publish", now=at(9), until=at(60), limit=9, claim="c") == []
    assert await store.deliveries.record_attempt(an_attempt(), DELIVERED, claim="c") is False
    assert await store.deliveries.release("dlv_1", claim="c", now=at(9)) is False
    assert (await store.deliveries.release_all(now=at(9), suspect_after=3)).released == 0
    assert await store.deliveries.retry_now("publish", now=at(9)) == 0
    assert await get_delivery(store, "dlv_1") == final


async def test_the_route_state_is_saved_with_the_verdict(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")
    state = RouteState(name="publish", failures=5, held_at=at(5), held_by=HeldBy.FAILURES, held_why="500")

    await store.deliveries.record_attempt(an_attempt(), AGAIN, claim="mine", route=state)

    assert await store.deliveries.route_states() == {"publish": state}


async def test_a_route_state_replaces_the_previous_one(store: Store) -> None:
    await store.deliveries.save_route(
        RouteState(name="publish", failures=5, held_at=at(5), held_by=HeldBy.OPERATOR, held_why="x")
    )
    await store.deliveries.save_route(RouteState(name="other"))
    await store.deliveries.save_route(RouteState(name="publish"))

    assert await store.deliveries.route_states() == {
        "publish": RouteState(name="publish"),
        "other": RouteState(name="other"),
    }


async def test_a_released_delivery_is_due_and_not_counted(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")

    assert await store.deliveries.release("dlv_1", claim="other", now=at(2)) is False
    assert await store.deliveries.release("dlv_1", claim="mine", now=at(2)) is True

    assert await get_delivery(store, "dlv_1") == a_delivery(due_at=at(2))
    assert await store.deliveries.release("dlv_1", claim="mine", now=at(2)) is False


async def test_retry_now_orders_a_route_by_age_except_claims(store: Store) -> None:
    await add_deliveries(
        store,
        a_delivery("dlv_1", event_id="evt_1", created_at=at(1), due_at=at(500), attempts=2),
        a_delivery("dlv_2", event_id="evt_2", created_at=at(2), due_at=at(2), attempts=1),
        a_delivery("dlv_3", event_id="evt_3", created_at=at(3), due_at=at(50), attempts=1),
        a_delivery("dlv_4", event_id="evt_4", created_at=at(4), due_at=at(4)),
        a_delivery("dlv_5", event_id="evt_5", created_at=at(5), due_at=at(900), attempts=1),
        a_delivery("dlv_6", event_id="evt_6", created_at=at(6), due_at=at(900), attempts=1, route="other"),
        a_delivery("dlv_7", event_id="evt_7", created_at=at(700), due_at=at(900), attempts=1),
    )
    await store.deliveries.claim("publish", now=at(2), until=at(600), limit=1, claim="mine")

    assert await store.deliveries.retry_now("publish", now=at(10)) == 4

    claimed = await store.deliveries.claim("publish", now=at(10), until=at(600), limit=9, claim="new")
    assert [one.delivery.id for one in claimed] == ["dlv_1", "dlv_3", "dlv_4", "dlv_5", "dlv_7"]
    assert (await get_delivery(store, "dlv_6")).due_at == at(900)


async def test_bring_forward_is_limited_and_waits_for_files(
    store: Store,
) -> None:
    awaited = [
        an_event(f"evt_{n}", task_id=None, type="alert.x", archiving=ArchiveState.PENDING, created_at=at(9000))
        for n in (5, 6)
    ]
    alert = an_event("evt_7", task_id=None, type="alert.x", archiving=ArchiveState.LATE, created_at=at(9000))
    await add_deliveries(
        store,
        a_delivery("dlv_1", event_id="evt_1", due_at=at(1)),
        a_delivery("dlv_2", event_id="evt_2", due_at=at(8000)),
        a_delivery("dlv_3", event_id="evt_3", due_at=at(8000), attempts=1),
        a_delivery("dlv_4", event_id="evt_4", due_at=at(8000), route="other"),
    )
    await store.tasks.add_events(
        [*awaited, alert],
        [
            a_delivery("dlv_5", event_id="evt_5", due_at=at(9900)),
            a_delivery("dlv_6", event_id="evt_6", due_at=at(800)),
            a_delivery("dlv_7", event_id="evt_7", due_at=at(9000)),
        ],
    )

    ahead: dict[str, Any] = {"now": at(10), "archive_wait_until": at(910), "limit": 2}
    assert [await store.deliveries.bring_forward("publish", **ahead) for _ in range(3)] == [2, 1, 0]

    due = {f"dlv_{n}": (await get_delivery(store, f"dlv_{n}")).due_at for n in range(1, 8)}
    assert due == {
        "dlv_1": at(1),
        "dlv_2": at(10),
        "dlv_3": at(8000),
        "dlv_4": at(8000),
        "dlv_5": at(910),
        "dlv_6": at(800),
        "dlv_7": at(10),
    }


async def test_claimed_deliveries_are_not_brought_forward(store: Store) -> None:
    await add_deliveries(store, a_delivery("dlv_1", event_id="evt_1", due_at=at(1)))
    await store.deliveries.claim("publish", now=at(1), until=at(8000), limit=1, claim="mine")

    assert await store.deliveries.bring_forward("publish", now=at(10), archive_wait_until=at(910), limit=9) == 0


async def test_a_probe_claims_the_next_unclaimed_delivery(store: Store) -> None:
    await add_deliveries(
        store,
        a_delivery("dlv_1", event_id="evt_1", due_at=at(1)),
        a_delivery("dlv_2", event_id="evt_2", due_at=at(2)),
        a_delivery("dlv_3", event_id="evt_3", due_at=at(900), attempts=1),
        a_delivery("dlv_4", event_id="evt_4", due_at=at(500)),  # held back: it waits for files
    )
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")
    await store.deliveries.claim("publish", now=at(2), until=at(600), limit=1, claim="mine")

    probes = [
        await store.deliveries.claim("publish", now=at(now), until=at(700), limit=1, claim="probe", early=True)
        for now in (30, 30, 60, 60)
    ]

    assert [[one.delivery.id for one in probe] for probe in probes] == [["dlv_3"], [], ["dlv_1"], []]


async def test_an_alert_is_stored_with_its_verdict(store: Store) -> None:
    await add_deliveries(store, a_delivery())
    await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="mine")
    event = an_event("evt_alert", type="alert.route_held", task_id=None)
    alert = RoutedEvent(event=event, deliveries=[a_delivery("dlv_alert", event_id="evt_alert", route="mail")])

    assert await store.deliveries.record_attempt(an_attempt(), AGAIN, claim="other", alerts=[alert]) is False
    assert await store.catalog.event("evt_alert") is None
    assert await store.deliveries.record_attempt(an_attempt(), AGAIN, claim="mine", alerts=[alert]) is True

    assert await store.catalog.event("evt_alert") == event
    assert (await get_delivery(store, "dlv_alert")).route == "mail"


async def test_the_newest_two_hundred_attempts_are_kept(store: Store) -> None:
    await add_deliveries(store, a_delivery())

    for number in range(1, 204):
        await store.deliveries.claim("publish", now=at(number * 60), until=at(number * 60 + 30), limit=1, claim="mine")
        verdict = Verdict(status=DeliveryStatus.PENDING, due_at=at(number * 60 + 30))
        await store.deliveries.record_attempt(an_attempt(number=number), verdict, claim="mine")

    assert [attempt.number for attempt in await store.catalog.attempts("dlv_1")] == list(range(4, 204))
    assert (await get_delivery(store, "dlv_1")).attempts == 203


async def test_the_backlog_is_counted_by_route(store: Store) -> None:
    await add_deliveries(
        store,
        a_delivery("dlv_1", event_id="evt_1", created_at=at(1), due_at=at(900)),
        a_delivery("dlv_2", event_id="evt_2", created_at=at(2)),
        a_delivery("dlv_3", event_id="evt_3", created_at=at(3), route="other"),
        a_delivery("dlv_4", event_id="evt_4", status=DeliveryStatus.DEAD, finished_at=at(4)),
    )

    backlog = [(each.route, each.pending, each.oldest) for each in await store.catalog.backlog()]

    assert backlog == [("other", 1, at(3)), ("publish", 2, at(1))]
