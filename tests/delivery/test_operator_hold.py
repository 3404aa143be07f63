"""An operator holds and releases routes, whatever failures do."""

from harness.clock import START
from harness.delivery_system import DeliverySystem
from harness.route_hold import HOUR, fail_until_held

from receiver.delivery.route_hold import HOLD_AFTER
from receiver.delivery.route_states import RouteStates
from receiver.domain.model import Accepted, HeldBy, RouteState


async def test_an_operators_hold_stops_all_deliveries_until_the_release(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()

    state = await system.route_states.hold("publish", why="maintenance", actor="alice")
    waiting = await system.add_events(5)
    await system.advance(24 * HOUR)

    assert (state.held_by, state.held_why) == (HeldBy.OPERATOR, "maintenance")
    assert there.attempts == []

    released = await system.route_states.release("publish", why="done", actor="bob")
    await system.settle()

    assert not released.is_held
    assert there.event_ids == waiting
    assert await system.alerts() == ["alert.route_held", "alert.route_recovered"]
    actions = [
        (each.actor, each.verb, each.subject, each.reason) for each in await system.store.catalog.actions(limit=9)
    ]
    assert actions == [
        ("bob", "route.released", "publish", "done"),
        ("alice", "route.held", "publish", "maintenance"),
    ]


async def test_an_operators_hold_survives_attempts_in_flight_and_a_restart(system: DeliverySystem) -> None:
    there = system.add_route()
    there.gate.clear()
    await system.start()
    await system.add_events(3)

    await system.route_states.hold("publish", why="", actor="alice")
    there.gate.set()
    await system.settle()
    await system.stop()
    await system.start()
    await system.advance(HOUR)

    assert await system.statuses() == ["delivered", "pending", "pending"]
    assert system.route_states.get("publish").held_by is HeldBy.OPERATOR


async def test_an_operator_may_release_a_hold_by_failures_and_the_count_restarts(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    await fail_until_held(system)

    there.attempts.clear()
    await system.route_states.release("publish", why="mended, I think", actor="alice")
    await system.settle()

    assert len(there.attempts) == HOLD_AFTER
    assert system.route_states.get("publish").held_by is HeldBy.FAILURES
    assert await system.alerts() == ["alert.route_held", "alert.route_recovered", "alert.route_held"]


async def test_the_first_release_after_a_start_knows_stored_holds(system: DeliverySystem) -> None:
    system.add_route()
    await system.start()
    await system.route_states.hold("publish", why="", actor="alice")
    await system.stop()
    await system.start()

    fresh = RouteStates(system.store.deliveries, system.alert_factory, notifiers=system.notifiers, clock=system.clock)

    assert (await fresh.release("publish", why="", actor="alice")).released_at == START


async def test_releasing_a_route_that_is_not_held_changes_nothing(system: DeliverySystem) -> None:
    system.add_route()
    await system.start()

    assert await system.route_states.release("publish", why="", actor="alice") == RouteState(name="publish")

    assert await system.store.catalog.actions(limit=9) == []
    assert await system.alerts() == []


async def test_a_hold_that_an_operator_takes_over_is_announced_once(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    await fail_until_held(system)

    await system.route_states.hold("publish", why="they are moving house", actor="alice")
    there.respond = lambda _: Accepted()
    await system.advance(HOUR)

    assert len(there.attempts) == HOLD_AFTER
    assert await system.alerts() == ["alert.route_held"]
