"""Failures hold a route; one probe a minute finds out when it works again."""

import asyncio
import json
from datetime import timedelta
from itertools import pairwise

import pytest
from harness.clock import START
from harness.delivery_system import FAILED, DeliverySystem
from harness.route_hold import HOUR, MINUTE, fail_until_held, respond_in_turn
from msgspec.structs import replace

from receiver.delivery.route_hold import HOLD_AFTER, PROBE_INTERVAL
from receiver.domain.model import Accepted, Failed, Refused, RouteState
from receiver.domain.rate_limiter import RateLimiter


async def test_five_consecutive_failures_hold_a_route_and_probe_it_each_minute(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()

    await fail_until_held(system, events=20)
    await system.advance(10 * MINUTE)

    assert len(there.attempts) == HOLD_AFTER + 10
    probes = there.attempt_times[HOLD_AFTER - 1 :]
    assert {later - earlier for earlier, later in pairwise(probes)} == {PROBE_INTERVAL}


async def test_an_event_waiting_in_a_held_route_uses_no_attempts(system: DeliverySystem) -> None:
    system.add_route()
    await system.start()
    await fail_until_held(system)

    await system.add_events(30)
    await system.advance(5 * MINUTE)

    tried = [view.delivery.attempts for view in await system.deliveries()]
    assert sum(tried) == HOLD_AFTER + 5
    assert set(await system.statuses()) == {"pending"}


async def test_an_event_that_always_fails_holds_no_route_and_dies(system: DeliverySystem) -> None:
    there = system.add_route(give_up_after=2 * HOUR)
    await system.start()
    [poison] = await system.add_events(1, settle=False)
    there.respond = lambda request: FAILED if request.event.id == poison else Accepted()
    await system.advance(HOUR)
    assert len(there.attempts) > HOLD_AFTER

    [other] = await system.add_events(1)
    assert there.event_ids[-1] == other
    await system.advance(3 * HOUR)

    assert await system.statuses() == ["dead", "delivered"]
    assert await system.alerts() == ["alert.delivery_dead"]


async def test_many_rejected_events_hold_no_route_but_raise_an_alert(system: DeliverySystem) -> None:
    there, mail = system.add_route(), system.add_route("alerts")
    rejected = Failed(reason="422: it rejected the body.", code=422, is_about_event=True)
    await system.start()
    poison = await system.add_events(8, settle=False)
    there.respond = lambda request: rejected if request.event.id in poison else Accepted()
    await system.advance(HOUR)
    assert await system.alerts() == ["alert.events_rejected"]

    [other] = await system.add_events(1)

    assert there.event_ids[-1] == other
    assert system.route_states.get("publish") == RouteState(name="publish")
    data = json.loads(mail.attempts[0][1].event.envelope)["data"]
    assert (data["route"], data["reason"]) == ("publish", "422: it rejected the body.")
    assert "secret" in data["remedy"]


async def test_the_first_success_releases_the_route_oldest_event_first(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    waiting = await fail_until_held(system, events=8)
    await system.advance(10 * MINUTE)
    waiting += await system.add_events(5)
    await system.advance(MINUTE - timedelta(seconds=1))
    there.attempts.clear()
    there.respond = lambda _: Accepted(code=204)

    await system.advance(timedelta(seconds=1))

    probe, *drained = there.event_ids
    assert drained == [each for each in waiting if each != probe]
    assert set(there.attempt_times) == {system.clock.now()}
    assert set(await system.statuses()) == {"delivered"}
    assert not system.route_states.get("publish").is_held


async def test_new_events_share_the_lane_with_the_backlog_and_its_rate(system: DeliverySystem) -> None:
    pace = RateLimiter(count=3, per=timedelta(seconds=1))
    there = system.add_route(concurrency=8, rate=pace)
    await system.start()
    waiting = await fail_until_held(system, events=20)
    await system.advance(5 * MINUTE)
    there.attempts.clear()
    there.respond = lambda _: Accepted(code=204)

    await system.advance(MINUTE)
    newest = await system.add_events(3)
    await system.advance(MINUTE)

    assert sorted(there.event_ids) == sorted(waiting + newest)
    spans = [sum(begin <= each < begin + pace.per for each in there.attempt_times) for begin in there.attempt_times]
    assert max(spans) <= pace.count


async def test_other_routes_are_not_affected(system: DeliverySystem) -> None:
    system.add_route()
    other = system.add_route("other")
    await system.start()
    await fail_until_held(system)

    sent = await system.add_events(10, route="other")

    assert other.event_ids == sent
    assert system.route_states.get("other") == RouteState(name="other")


async def test_each_alert_is_raised_once_and_sent_to_alert_routes(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=8)
    mail = system.add_route("alerts")
    await system.start()
    await fail_until_held(system, events=30)
    await system.advance(HOUR)
    there.respond = lambda _: Accepted(code=204)
    await system.advance(MINUTE)

    assert await system.alerts() == ["alert.route_held", "alert.route_recovered"]
    held, recovered = (json.loads(parcel.event.envelope)["data"] for _, parcel in mail.attempts)
    assert (held["route"], held["held_by"], held["reason"]) == ("publish", "failures", FAILED.reason)
    assert (recovered["route"], recovered["held_at"]) == ("publish", held["held_at"])
    assert "publish" in held["message"]
    assert "publish" in recovered["message"]


async def test_a_route_is_held_and_released_as_often_as_it_fails_and_recovers(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()

    for _ in range(3):
        await fail_until_held(system)
        there.respond = lambda _: Accepted(code=204)
        await system.advance(MINUTE)

    assert await system.alerts() == ["alert.route_held", "alert.route_recovered"] * 3


@pytest.mark.parametrize("ending", ["stop", "crash"])
async def test_held_routes_and_their_backlog_survive_a_restart(system: DeliverySystem, ending: str) -> None:
    there = system.add_route()
    await system.start()
    waiting = await fail_until_held(system, events=12)
    await system.advance(timedelta(seconds=90))
    before = system.route_states.get("publish")
    assert before.is_held
    there.attempts.clear()

    await (system.stop() if ending == "stop" else system.crash())
    await system.start()

    assert system.route_states.get("publish") == replace(before, failing=frozenset())
    assert there.attempts == []
    await system.advance(MINUTE)
    assert len(there.attempts) == 1
    there.respond = lambda _: Accepted(code=204)
    await system.advance(MINUTE)
    assert sorted(set(there.event_ids)) == waiting
    assert await system.alerts() == ["alert.route_held", "alert.route_recovered"]


async def test_six_hours_of_outage_cost_one_probe_a_minute(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=8)
    there.respond = lambda _: FAILED
    await system.start()

    waiting = []
    for _ in range(72):
        waiting += await system.add_events(3)
        await system.advance(5 * MINUTE)
    assert system.clock.now() == START + 6 * HOUR
    assert len(there.attempts) <= 360 + 8

    there.attempts.clear()
    there.respond = lambda _: Accepted(code=204)
    await system.advance(MINUTE)

    assert sorted(there.event_ids) == waiting
    assert set(await system.statuses()) == {"delivered"}


async def test_a_held_route_keeps_every_event_and_delivers_all_later(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=100)
    there.respond = lambda _: FAILED
    await system.start()
    await system.add_events(HOLD_AFTER)
    waiting = [id_ for _ in range(4) for id_ in await system.add_events(1000)]

    there.attempts.clear()
    there.respond = lambda _: Accepted(code=204)
    await system.advance(2 * MINUTE)

    assert set(waiting) <= set(there.event_ids)
    assert set(await system.statuses()) == {"delivered"}


async def test_a_probe_that_times_out_does_not_delay_the_next_one(system: DeliverySystem) -> None:
    there = system.add_route()
    await system.start()
    await fail_until_held(system)

    there.gate.clear()
    await system.advance(MINUTE)
    assert there.blocked == 1
    await system.advance(timedelta(seconds=15))
    there.gate.set()
    await system.advance(timedelta(seconds=45))

    assert there.attempt_times[-2:] == [START + MINUTE, START + 2 * MINUTE]


async def test_an_event_waiting_for_files_is_not_sent_by_a_probe_or_release(
    system: DeliverySystem,
) -> None:
    there = system.add_route()
    await system.start()
    waiting = await fail_until_held(system)
    [held_back] = await system.add_events(1, due_in=HOUR)

    await system.advance(30 * MINUTE)
    there.respond = lambda _: Accepted(code=204)
    await system.advance(20 * MINUTE)
    assert held_back not in there.event_ids
    assert set(waiting) <= set(there.event_ids)
    await system.advance(10 * MINUTE)

    assert there.event_ids[-1] == held_back


async def test_a_held_route_without_due_deliveries_causes_no_wakeups(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda _: Refused(reason="410", code=410, hold=True)
    await system.start()
    await system.add_events(1)
    await system.add_events(1, due_in=HOUR)
    assert system.route_states.get("publish").is_held

    await system.advance(HOUR - MINUTE)

    assert len(there.attempts) == 1
    assert system.clock.next_wakeup == START + HOUR


async def test_a_delivery_that_is_too_old_dies_in_a_held_route_too(system: DeliverySystem) -> None:
    system.add_route(give_up_after=HOUR)
    mail = system.add_route("alerts")
    await system.start()
    await fail_until_held(system)

    await system.advance(HOUR - MINUTE)
    assert set(await system.statuses()) == {"pending"}
    await system.advance(10 * MINUTE)

    assert await system.statuses() == ["dead"] * HOLD_AFTER
    assert await system.alerts() == ["alert.route_held", "alert.delivery_dead"]
    data = json.loads(mail.attempts[-1][1].event.envelope)["data"]
    assert f"kling-receiver deliveries retry {data['delivery']}" in data["remedy"]


async def test_a_route_whose_deliveries_die_again_after_a_success_raises_another_alert(system: DeliverySystem) -> None:
    there = system.add_route(give_up_after=HOUR)
    await system.start()

    for _ in range(2):
        there.respond = lambda _: FAILED
        await system.add_events(2)
        await system.advance(3 * HOUR)
        there.respond = lambda _: Accepted()
        await system.add_events(1)

    assert await system.statuses() == ["dead", "dead", "delivered"] * 2
    assert await system.alerts() == ["alert.delivery_dead"] * 2


async def test_an_alert_that_dies_raises_no_alert(system: DeliverySystem) -> None:
    there, mail = system.add_route(give_up_after=HOUR), system.add_route("alerts", give_up_after=HOUR)
    there.respond = mail.respond = lambda _: FAILED
    await system.start()

    await system.add_events(1)
    await system.advance(6 * HOUR)

    assert (await system.statuses(), await system.statuses("alerts")) == (["dead"], ["dead"])
    assert await system.alerts() == ["alert.delivery_dead"]


async def test_time_in_a_hold_does_not_count_towards_giving_up(system: DeliverySystem) -> None:
    there = system.add_route(give_up_after=HOUR)
    there.respond = respond_in_turn(FAILED, FAILED)
    await system.start()
    await system.route_states.hold("publish", why="maintenance", actor="anna")
    await system.add_events(1)
    await system.advance(5 * HOUR)

    await system.route_states.release("publish", why="", actor="anna")
    await system.advance(10 * MINUTE)

    assert (len(there.attempts), await system.statuses()) == (3, ["delivered"])


async def test_failures_in_flight_at_the_hold_do_not_delay_the_first_probe(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=8)
    there.respond = lambda _: FAILED
    there.gate.clear()
    await system.start()

    await system.add_events(20)
    assert there.blocked == 8
    there.gate.set()
    await system.settle()

    state = system.route_states.get("publish")
    assert (state.failures, state.held_at, state.probe_at) == (len(there.attempts), START, START + MINUTE)
    assert len(there.attempts) < 8 + HOLD_AFTER
    assert await system.alerts() == ["alert.route_held"]
    there.attempts.clear()
    await system.advance(3 * MINUTE)
    assert len(there.attempts) == 3


async def test_a_success_in_flight_at_the_hold_releases_the_route(system: DeliverySystem) -> None:
    there = system.add_route(concurrency=6)
    await system.start()
    [slow] = await system.add_events(1, settle=False)
    there.gates[slow] = asyncio.Event()
    await fail_until_held(system)

    there.respond = lambda _: Accepted()
    there.gates[slow].set()
    await system.settle()

    assert not system.route_states.get("publish").is_held
    assert set(await system.statuses()) == {"delivered"}


async def test_retries_planned_before_the_hold_wait_too(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda _: FAILED
    await system.start()
    await system.add_events(4)
    assert not system.route_states.get("publish").is_held

    await system.advance(timedelta(seconds=8))

    held_at = system.route_states.get("publish").held_at
    assert held_at is not None
    assert len(there.attempts) == HOLD_AFTER
    await system.advance(held_at + MINUTE - system.clock.now())
    assert len(there.attempts) == HOLD_AFTER + 1


async def test_a_410_destination_loses_one_event_and_the_others_wait(system: DeliverySystem) -> None:
    there = system.add_route(give_up_after=HOUR)
    there.respond = lambda _: Refused(reason="410", code=410, hold=True)
    await system.start()

    await system.add_events(10)
    await system.advance(5 * MINUTE)

    assert await system.statuses() == ["dead"] + ["pending"] * 9
    assert len(there.attempts) == 6
    there.respond = lambda _: FAILED
    await system.advance(HOUR)
    assert await system.alerts() == ["alert.route_held", "alert.delivery_dead"]


async def test_a_probe_waits_for_retry_after(system: DeliverySystem) -> None:
    there = system.add_route()
    there.respond = lambda _: Failed(reason="503", code=503, retry_after=timedelta(minutes=20))
    await system.start()

    await system.add_events(HOLD_AFTER)
    await system.advance(HOUR)

    assert there.attempt_times[HOLD_AFTER:] == [START + timedelta(minutes=20 * n) for n in (1, 2, 3)]
