"""A route that fails is held: its events wait, one probe a minute goes out, the first success lets all go on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from harness.delivery_system import FAILED, Lab, a_lab
from harness.support import START

from receiver.delivery.retry import HOLD_AFTER, PROBE_EVERY, Pace
from receiver.delivery.route_states import Holds
from receiver.delivery.senders.sender import Parcel
from receiver.domain.model import Accepted, Failed, HeldBy, Outcome, Refused, RouteState

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with a_lab(tmp_path) as lab:
        yield lab


async def hold(lab: Lab, events: int = HOLD_AFTER) -> list[str]:
    """Bring a route to be held: so many events, none of which gets through."""
    lab.destinations["publish"].answer = lambda _: FAILED
    ids = await lab.add(events)
    if not lab.holds.of("publish").is_held:  # a slow lane
        await lab.go_on(timedelta(seconds=2))
    assert lab.holds.of("publish").held_by is HeldBy.FAILURES
    return ids


def in_turn(*outcomes: Outcome) -> Callable[[Parcel], Outcome]:
    """Answer these one after the other, and take everything after them."""
    left = list(outcomes)
    return lambda _: left.pop(0) if left else Accepted(code=204)


async def test_five_failures_in_a_row_hold_a_route_and_then_it_is_tried_once_a_minute(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()

    await hold(lab, events=20)
    await lab.go_on(10 * MINUTE)

    assert len(there.tries) == HOLD_AFTER + 10
    probes = there.moments[HOLD_AFTER - 1 :]
    assert {later - earlier for earlier, later in pairwise(probes)} == {PROBE_EVERY}


async def test_an_event_that_waits_in_a_held_route_spends_no_attempts(lab: Lab) -> None:
    lab.a_route()
    await lab.start()
    await hold(lab)

    await lab.add(30)
    await lab.go_on(5 * MINUTE)

    tried = [view.delivery.attempts for view in await lab.deliveries()]
    assert sum(tried) == HOLD_AFTER + 5
    assert set(await lab.statuses()) == {"pending"}


async def test_one_event_alone_can_hold_its_route_and_is_then_probed_for(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: FAILED
    await lab.start()
    await lab.add(1)

    await lab.go_on(HOUR)

    held_at = lab.holds.of("publish").held_at
    assert held_at is not None
    assert [moment for moment in there.moments if moment > held_at][:2] == [held_at + MINUTE, held_at + 2 * MINUTE]
    assert (await lab.deliveries())[0].delivery.attempts == len(there.tries)


async def test_the_first_success_releases_the_route_and_its_backlog_drains_oldest_first(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    waiting = await hold(lab, events=8)
    await lab.go_on(10 * MINUTE)
    waiting += await lab.add(5)
    await lab.go_on(MINUTE - timedelta(seconds=1))
    there.tries.clear()
    there.answer = lambda _: Accepted(code=204)

    await lab.go_on(timedelta(seconds=1))

    probe, *drained = there.events
    assert drained == [each for each in waiting if each != probe]
    assert set(there.moments) == {lab.clock.now()}
    assert set(await lab.statuses()) == {"delivered"}
    assert not lab.holds.of("publish").is_held


async def test_new_events_share_the_lane_with_the_backlog_and_its_rate(lab: Lab) -> None:
    pace = Pace(count=3, per=timedelta(seconds=1))
    there = lab.a_route(concurrency=8, pace=pace)
    await lab.start()
    waiting = await hold(lab, events=20)
    await lab.go_on(5 * MINUTE)
    there.tries.clear()
    there.answer = lambda _: Accepted(code=204)

    await lab.go_on(MINUTE)
    newest = await lab.add(3)
    await lab.go_on(MINUTE)

    assert sorted(there.events) == sorted(waiting + newest)
    spans = [sum(begin <= each < begin + pace.per for each in there.moments) for begin in there.moments]
    assert max(spans) <= pace.count


async def test_other_routes_know_nothing_of_it(lab: Lab) -> None:
    lab.a_route()
    other = lab.a_route("other")
    await lab.start()
    await hold(lab)

    sent = await lab.add(10, route="other")

    assert other.events == sent
    assert lab.holds.of("other") == RouteState(name="other")


async def test_each_alert_is_told_once_and_goes_where_alerts_go(lab: Lab) -> None:
    there = lab.a_route(concurrency=8)
    mail = lab.a_route("alerts")
    await lab.start()
    await hold(lab, events=30)
    await lab.go_on(HOUR)
    there.answer = lambda _: Accepted(code=204)
    await lab.go_on(MINUTE)

    assert await lab.alerts() == ["alert.route_held", "alert.route_recovered"]
    held, recovered = (json.loads(parcel.event.envelope)["data"] for _, parcel in mail.tries)
    assert (held["route"], held["held_by"], held["reason"]) == ("publish", "failures", FAILED.reason)
    assert (recovered["route"], recovered["held_at"]) == ("publish", held["held_at"])
    assert "publish" in held["message"]
    assert "publish" in recovered["message"]


async def test_a_route_is_held_and_released_as_often_as_it_fails_and_recovers(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()

    for _ in range(3):
        await hold(lab)
        there.answer = lambda _: Accepted(code=204)
        await lab.go_on(MINUTE)

    assert await lab.alerts() == ["alert.route_held", "alert.route_recovered"] * 3


@pytest.mark.parametrize("ending", ["stop", "crash"])
async def test_held_routes_and_their_backlog_outlive_the_process(lab: Lab, ending: str) -> None:
    there = lab.a_route()
    await lab.start()
    waiting = await hold(lab, events=12)
    await lab.go_on(timedelta(seconds=90))
    before = lab.holds.of("publish")
    assert before.is_held
    there.tries.clear()

    await (lab.stop() if ending == "stop" else lab.crash())
    await lab.start()

    assert lab.holds.of("publish") == before
    assert there.tries == []
    await lab.go_on(MINUTE)
    assert len(there.tries) == 1
    there.answer = lambda _: Accepted(code=204)
    await lab.go_on(MINUTE)
    assert sorted(set(there.events)) == waiting
    assert await lab.alerts() == ["alert.route_held", "alert.route_recovered"]


async def test_six_hours_of_silence_cost_a_probe_a_minute_and_end_within_a_minute(lab: Lab) -> None:
    there = lab.a_route(concurrency=8)
    there.answer = lambda _: FAILED
    await lab.start()

    waiting = []
    for _ in range(72):
        waiting += await lab.add(3)
        await lab.go_on(5 * MINUTE)
    assert lab.clock.now() == START + 6 * HOUR
    assert len(there.tries) <= 360 + 8

    there.tries.clear()
    there.answer = lambda _: Accepted(code=204)
    await lab.go_on(MINUTE)

    assert sorted(there.events) == waiting
    assert set(await lab.statuses()) == {"delivered"}


async def test_a_held_route_keeps_however_much_comes_and_all_of_it_goes_out(lab: Lab) -> None:
    there = lab.a_route(concurrency=100)
    there.answer = lambda _: FAILED
    await lab.start()
    await lab.add(HOLD_AFTER)
    waiting = [id_ for _ in range(4) for id_ in await lab.add(1000)]

    there.tries.clear()
    there.answer = lambda _: Accepted(code=204)
    await lab.go_on(2 * MINUTE)

    assert set(waiting) <= set(there.events)
    assert set(await lab.statuses()) == {"delivered"}


async def test_a_probe_that_hangs_until_its_timeout_does_not_stretch_the_minute(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    await hold(lab)

    there.open.clear()
    await lab.go_on(MINUTE)
    assert there.stuck == 1
    await lab.go_on(timedelta(seconds=15))
    there.open.set()
    await lab.go_on(timedelta(seconds=45))

    assert there.moments[-2:] == [START + MINUTE, START + 2 * MINUTE]


async def test_what_is_held_back_for_its_files_goes_out_neither_as_a_probe_nor_at_a_release(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    waiting = await hold(lab)
    [held_back] = await lab.add(1, due_in=HOUR)

    await lab.go_on(30 * MINUTE)
    there.answer = lambda _: Accepted(code=204)
    await lab.go_on(20 * MINUTE)
    assert held_back not in there.events
    assert set(waiting) <= set(there.events)
    await lab.go_on(10 * MINUTE)

    assert there.events[-1] == held_back


async def test_a_held_route_in_which_all_is_held_back_costs_nothing(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: Refused(reason="410", code=410, hold=True)
    await lab.start()
    await lab.add(1)
    await lab.add(1, due_in=HOUR)
    assert lab.holds.of("publish").is_held

    await lab.go_on(HOUR - MINUTE)

    assert len(there.tries) == 1
    assert lab.clock.next_moment == START + HOUR


async def test_nothing_dies_of_age_in_a_held_route(lab: Lab) -> None:
    lab.a_route(give_up_after=HOUR)
    await lab.start()
    await hold(lab)

    await lab.go_on(5 * HOUR)

    assert set(await lab.statuses()) == {"pending"}


async def test_what_waited_out_a_hold_still_has_its_time_after_it(lab: Lab) -> None:
    there = lab.a_route(give_up_after=HOUR)
    await lab.start()
    await hold(lab)
    await lab.go_on(5 * HOUR)

    there.answer = in_turn(Accepted(), FAILED, FAILED)
    await lab.go_on(MINUTE)
    assert "dead" not in await lab.statuses()

    await lab.go_on(10 * MINUTE)
    assert set(await lab.statuses()) == {"delivered"}


async def test_failures_under_way_at_the_hold_are_harmless(lab: Lab) -> None:
    there = lab.a_route(concurrency=8)
    there.answer = lambda _: FAILED
    there.open.clear()
    await lab.start()

    await lab.add(20)
    assert there.stuck == 8
    there.open.set()
    await lab.settle()

    state = lab.holds.of("publish")
    assert (state.failures, state.held_at, state.probe_at) == (len(there.tries), START, START + MINUTE)
    assert len(there.tries) < 8 + HOLD_AFTER
    assert await lab.alerts() == ["alert.route_held"]
    there.tries.clear()
    await lab.go_on(3 * MINUTE)
    assert len(there.tries) == 3


async def test_a_success_under_way_at_the_hold_releases_it(lab: Lab) -> None:
    there = lab.a_route(concurrency=6)
    await lab.start()
    [slow] = await lab.add(1, settle=False)
    there.gates[slow] = asyncio.Event()
    await hold(lab)

    there.answer = lambda _: Accepted()
    there.gates[slow].set()
    await lab.settle()

    assert not lab.holds.of("publish").is_held
    assert set(await lab.statuses()) == {"delivered"}


async def test_retries_that_were_planned_before_the_hold_wait_with_the_rest(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: FAILED
    await lab.start()
    await lab.add(4)
    assert not lab.holds.of("publish").is_held

    await lab.go_on(timedelta(seconds=8))

    held_at = lab.holds.of("publish").held_at
    assert held_at is not None
    assert len(there.tries) == HOLD_AFTER
    await lab.go_on(held_at + MINUTE - lab.clock.now())
    assert len(there.tries) == HOLD_AFTER + 1


async def test_one_event_that_never_gets_through_does_not_keep_the_others(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    [poison] = await lab.add(1, settle=False)
    there.answer = lambda parcel: FAILED if parcel.event.id == poison else Accepted()
    await lab.go_on(HOUR)
    assert lab.holds.of("publish").is_held

    [other] = await lab.add(1)
    await lab.go_on(MINUTE)

    assert other in there.events
    assert not lab.holds.of("publish").is_held


async def test_a_destination_that_is_gone_costs_one_event_and_no_more(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: Refused(reason="410", code=410, hold=True)
    await lab.start()

    await lab.add(10)
    await lab.go_on(5 * MINUTE)

    assert await lab.statuses() == ["dead"] + ["pending"] * 9
    assert len(there.tries) == 6


async def test_a_probe_waits_as_long_as_the_destination_asks(lab: Lab) -> None:
    there = lab.a_route()
    there.answer = lambda _: Failed(reason="503", code=503, retry_after=timedelta(minutes=20))
    await lab.start()

    await lab.add(HOLD_AFTER)
    await lab.go_on(HOUR)

    assert there.moments[HOLD_AFTER:] == [START + timedelta(minutes=20 * n) for n in (1, 2, 3)]


async def test_an_operators_hold_lets_nothing_out_until_it_is_released(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()

    state = await lab.holds.hold("publish", why="maintenance", actor="alice")
    waiting = await lab.add(5)
    await lab.go_on(24 * HOUR)

    assert (state.held_by, state.held_why) == (HeldBy.OPERATOR, "maintenance")
    assert there.tries == []

    released = await lab.holds.release("publish", why="done", actor="bob")
    await lab.settle()

    assert not released.is_held
    assert there.events == waiting
    assert await lab.alerts() == ["alert.route_held", "alert.route_recovered"]
    actions = [(each.actor, each.verb, each.subject, each.note) for each in await lab.store.actions(limit=9)]
    assert actions == [
        ("bob", "route.released", "publish", "done"),
        ("alice", "route.held", "publish", "maintenance"),
    ]


async def test_an_operators_hold_outlives_the_process_and_what_was_under_way(lab: Lab) -> None:
    there = lab.a_route()
    there.open.clear()
    await lab.start()
    await lab.add(3)

    await lab.holds.hold("publish", why="", actor="alice")
    there.open.set()
    await lab.settle()
    await lab.stop()
    await lab.start()
    await lab.go_on(HOUR)

    assert await lab.statuses() == ["delivered", "pending", "pending"]
    assert lab.holds.of("publish").held_by is HeldBy.OPERATOR


async def test_an_operator_releases_what_failures_hold_and_it_starts_anew(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    await hold(lab)

    there.tries.clear()
    await lab.holds.release("publish", why="mended, I think", actor="alice")
    await lab.settle()

    assert len(there.tries) == HOLD_AFTER
    assert lab.holds.of("publish").held_by is HeldBy.FAILURES
    assert await lab.alerts() == ["alert.route_held", "alert.route_recovered", "alert.route_held"]


async def test_a_release_before_anything_else_knows_what_was_held_before(lab: Lab) -> None:
    lab.a_route()
    await lab.start()
    await lab.holds.hold("publish", why="", actor="alice")
    await lab.stop()
    await lab.start()

    fresh = Holds(lab.store, lab.alerting, bells=lab.bells, clock=lab.clock)

    assert (await fresh.release("publish", why="", actor="alice")).released_at == START


async def test_to_release_what_is_not_held_changes_nothing(lab: Lab) -> None:
    lab.a_route()
    await lab.start()

    assert await lab.holds.release("publish", why="", actor="alice") == RouteState(name="publish")

    assert await lab.store.actions(limit=9) == []
    assert await lab.alerts() == []


async def test_a_hold_that_an_operator_takes_over_is_announced_once(lab: Lab) -> None:
    there = lab.a_route()
    await lab.start()
    await hold(lab)

    await lab.holds.hold("publish", why="they are moving house", actor="alice")
    there.answer = lambda _: Accepted()
    await lab.go_on(HOUR)

    assert len(there.tries) == HOLD_AFTER
    assert await lab.alerts() == ["alert.route_held"]
