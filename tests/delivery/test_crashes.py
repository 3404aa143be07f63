"""A process that dies again and again: which delivery is suspected, tried alone, and set aside."""

import asyncio
import json
from datetime import timedelta

from harness.delivery_system import SECOND, DeliverySystem, Destination

from receiver.delivery.retry import MAX_UNFINISHED_CLAIMS, SUSPECT_AFTER
from receiver.domain.model import RouteState

GRACE = timedelta(milliseconds=5)


async def crash_and_start(system: DeliverySystem, times: int) -> None:
    for _ in range(times):
        await system.crash()
        await system.start()


async def blocked_route(system: DeliverySystem, name: str = "publish", *, events: int) -> tuple[Destination, list[str]]:
    """Start with a route whose events are all in flight and get no answer."""
    there = system.add_route(name, concurrency=8)
    there.gate.clear()
    if not system.running:
        await system.start()
    ids = await system.add_events(events, route=name)
    assert there.blocked == events
    return there, ids


async def test_deliveries_in_flight_together_survive_any_number_of_crashes(system: DeliverySystem) -> None:
    there, events = await blocked_route(system, events=8)

    await crash_and_start(system, times=2 * MAX_UNFINISHED_CLAIMS)
    there.gate.set()
    await system.settle()

    assert set(there.event_ids) == set(events)
    assert await system.statuses() == ["delivered"] * 8
    assert await system.alerts() == []


async def test_suspects_are_attempted_alone_one_at_a_time(system: DeliverySystem) -> None:
    there, _ = await blocked_route(system, events=3)
    other, _ = await blocked_route(system, "other", events=2)
    await crash_and_start(system, times=SUSPECT_AFTER - 1)
    assert (there.blocked, other.blocked) == (3, 2)

    for _ in range(5):
        await crash_and_start(system, times=1)
        await system.add_events(1, route="other")

        assert there.blocked + other.blocked == 1

    views = [*await system.deliveries(), *await system.deliveries("other")]
    suspects = [view.delivery.unfinished_claims for view in views if view.delivery.unfinished_claims]
    assert sorted(suspects) == [SUSPECT_AFTER] + [SUSPECT_AFTER + 1] * 4


async def test_a_suspect_that_crashes_the_process_dies_with_an_alert(system: DeliverySystem) -> None:
    mail = system.add_route("alerts")
    there, (culprit, *others) = await blocked_route(system, events=4)
    await crash_and_start(system, times=SUSPECT_AFTER - 1)
    there.gates[culprit] = asyncio.Event()
    await crash_and_start(system, times=1)
    there.gate.set()
    await system.settle()
    crashes = SUSPECT_AFTER
    while there.blocked:
        assert await system.alerts() == []
        await crash_and_start(system, times=1)
        crashes += 1

    assert crashes == MAX_UNFINISHED_CLAIMS
    assert await system.statuses() == ["dead"] + ["delivered"] * 3
    assert set(others) <= set(there.event_ids)
    [(_, request)] = mail.attempts
    data = json.loads(request.event.envelope)["data"]
    assert (request.event.type, data["event"]) == ("alert.delivery_dead", culprit)
    assert f"kling-receiver deliveries retry {data['delivery']}" in data["remedy"]


async def test_a_delivery_alone_in_flight_at_ten_crashes_dies_with_an_alert(system: DeliverySystem) -> None:
    there, _ = await blocked_route(system, events=1)

    await crash_and_start(system, times=MAX_UNFINISHED_CLAIMS)

    assert (there.blocked, len(there.attempts)) == (0, MAX_UNFINISHED_CLAIMS)
    [view] = await system.deliveries()
    [attempt] = await system.attempts(view.delivery.id)
    assert (view.delivery.status, attempt.outcome) == ("dead", "refused")
    assert "not retried" in attempt.reason
    assert await system.alerts() == ["alert.delivery_dead"]
    assert system.route_states.get("publish") == RouteState(name="publish")


async def test_a_clean_stop_counts_against_no_delivery(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=8)
    there.gate.clear()
    await system.start(grace=GRACE)
    await system.add_events(1)

    for _ in range(2 * MAX_UNFINISHED_CLAIMS):
        assert there.blocked == 1
        await system.stop()
        await system.start(grace=GRACE)

    [view] = await system.deliveries()
    assert (view.delivery.unfinished_claims, there.blocked) == (0, 1)


async def test_a_suspect_is_still_suspected_after_a_clean_stop(system: DeliverySystem) -> None:
    there, _ = await blocked_route(system, events=3)
    await crash_and_start(system, times=SUSPECT_AFTER)
    await system.crash()
    await system.start(grace=GRACE)

    await system.stop()
    await system.start()

    assert there.blocked == 1


async def test_a_suspect_of_a_manually_held_route_waits_and_delays_no_other_route(system: DeliverySystem) -> None:
    there, _ = await blocked_route(system, events=2)
    other = system.add_route("other")
    await system.route_states.hold("publish", why="maintenance", actor="anna")
    await crash_and_start(system, times=SUSPECT_AFTER)
    assert there.blocked == 0

    await system.add_events(2, route="other")
    assert len(other.attempts) == 2
    there.gate.set()
    await system.route_states.release("publish", why="", actor="anna")
    await system.settle()

    assert await system.statuses() == ["delivered"] * 2


async def test_other_deliveries_then_get_as_much_time_as_the_suspect_took(system: DeliverySystem) -> None:
    there, (first, second) = await blocked_route(system, events=2)
    other = system.add_route("other")
    await crash_and_start(system, times=SUSPECT_AFTER)
    await system.add_events(1, route="other")
    await system.advance(10 * SECOND)
    assert (there.event_ids[-1], other.attempts) == (first, [])

    took_until = system.clock.now()
    there.gate.set()
    await system.settle()
    assert (there.event_ids[-1], len(other.attempts)) == (first, 1)
    await system.advance(10 * SECOND)

    assert (there.event_ids[-1], there.attempt_times[-1]) == (second, took_until + 10 * SECOND)


async def test_a_clock_set_forward_during_an_attempt_delays_no_suspect(system: DeliverySystem) -> None:
    there, _ = await blocked_route(system, events=2)
    await crash_and_start(system, times=SUSPECT_AFTER)

    system.clock.set_forward(timedelta(days=365))
    there.gate.set()
    await system.settle()
    await system.advance(2 * there.timeout)

    assert await system.statuses() == ["delivered"] * 2
