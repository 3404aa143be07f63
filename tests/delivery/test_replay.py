"""Replays: what is over goes out again, at its pace, through crashes, and what was stays as it was."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.clock import START
from harness.delivery_system import FAILED, SECOND, DeliverySystem, a_delivery_system

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import Accepted, DeliveryStatus, Refused
from receiver.domain.replays import Replay, ReplaySelection, ReplayState
from receiver.settings import Rate, RouteSettings, WebhookSettings
from receiver.store.interfaces import DeliveryView

DEAD = (DeliveryStatus.DEAD,)


def a_route(name: str, *on: str) -> RouteSettings:
    url = WebhookSettings(url="https://app.example.com/")
    return RouteSettings(name=name, on=frozenset(on or ("succeed",)), webhook=url)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[DeliverySystem]:
    async with a_delivery_system(tmp_path) as system:
        system.routes = (a_route("publish"), a_route("other", "processing"), a_route("alerts", "alert"))
        system.add_route()
        system.add_route("other")
        await system.start()
        yield system


async def add_dead_deliveries(system: DeliverySystem, count: int = 3) -> list[DeliveryView]:
    """Bring in so many events that all die, and mend what they died of."""
    there = system.destinations["publish"]
    there.respond = lambda _: Refused(reason="exit 65", code=65)
    await system.add_events(count)
    there.respond = lambda _: Accepted(code=204)
    there.attempts.clear()
    return await system.deliveries()


async def replay(system: DeliverySystem, *, rate: Rate | None = None, **selection: Any) -> Replay:
    started = await system.replayer.start(ReplaySelection(**selection), rate=rate, why="the outage", actor="alice")
    await system.settle()
    return started


async def test_a_replayed_delivery_keeps_its_event_id_and_history(system: DeliverySystem) -> None:
    before = await add_dead_deliveries(system)
    attempts = [await system.attempts(view.delivery.id) for view in before]

    started = await replay(system, route="publish", statuses=DEAD)

    assert system.destinations["publish"].event_ids == [view.delivery.event_id for view in before]
    after = await system.deliveries()
    assert after[:3] == before
    assert [await system.attempts(view.delivery.id) for view in before] == attempts
    assert [(view.delivery.replay_of, view.delivery.status) for view in after[3:]] == [
        (view.delivery.id, "delivered") for view in before
    ]
    done = await system.replayer.find(started.id)
    assert (done.state, done.total, done.created, done.finished_at) == (ReplayState.DONE, 3, 3, START)


async def test_repeating_a_replay_delivers_its_events_again(system: DeliverySystem) -> None:
    events = [view.delivery.event_id for view in await add_dead_deliveries(system)]

    for _ in range(2):
        await replay(system, route="publish", statuses=DEAD)

    assert system.destinations["publish"].event_ids == events * 2


async def test_a_replay_does_not_select_its_own_deliveries(system: DeliverySystem) -> None:
    await system.add_events(3)

    await replay(system, route="publish")
    await system.advance(timedelta(hours=1))

    assert len(system.destinations["publish"].attempts) == 6
    assert len(await system.deliveries()) == 6


async def test_a_replayed_delivery_starts_with_all_its_attempts(system: DeliverySystem) -> None:
    [old] = await add_dead_deliveries(system, 1)
    await system.advance(timedelta(hours=200))
    system.destinations["publish"].respond = lambda parcel: FAILED if parcel.attempt < 4 else Accepted()

    await replay(system, statuses=DEAD)
    await system.advance(timedelta(hours=1))

    new = (await system.deliveries())[-1].delivery
    assert (new.replay_of, new.status, new.attempts) == (old.delivery.id, "delivered", 4)


async def test_a_replay_respects_its_rate(system: DeliverySystem) -> None:
    events = [view.delivery.event_id for view in await add_dead_deliveries(system, 12)]

    started = await replay(system, rate=Rate(5, SECOND), statuses=DEAD)
    assert (await system.replayer.find(started.id)).created == 5
    await system.advance(timedelta(minutes=1))

    there = system.destinations["publish"]
    assert there.event_ids == events
    assert there.attempt_times == [START + n // 5 * SECOND for n in range(12)]
    assert (await system.replayer.find(started.id)).state is ReplayState.DONE


async def test_a_replay_resumes_after_a_crash_and_skips_and_repeats_nothing(system: DeliverySystem) -> None:
    events = [view.delivery.event_id for view in await add_dead_deliveries(system, 10)]
    started = await replay(system, rate=Rate(2, SECOND), statuses=DEAD)

    for _ in range(3):
        await system.crash()
        await system.start()
        await system.advance(SECOND)
    await system.advance(timedelta(minutes=1))

    assert system.destinations["publish"].event_ids == events
    done = await system.replayer.find(started.id)
    assert (done.state, done.created) == (ReplayState.DONE, 10)


async def test_a_large_replay_is_completed_in_steps(system: DeliverySystem) -> None:
    await add_dead_deliveries(system, 230)

    started = await replay(system, route="publish", statuses=DEAD)

    assert len(set(system.destinations["publish"].event_ids)) == len(system.destinations["publish"].event_ids) == 230
    assert (await system.replayer.find(started.id)).created == 230


async def test_two_replays_run_concurrently(system: DeliverySystem) -> None:
    old = await add_dead_deliveries(system, 6)

    first = await replay(system, rate=Rate(1, SECOND), deliveries=tuple(view.delivery.id for view in old[:3]))
    second = await replay(system, rate=Rate(1, 2 * SECOND), deliveries=tuple(view.delivery.id for view in old[3:]))
    await system.advance(10 * SECOND)

    assert [(await system.replayer.find(each.id)).state for each in (first, second)] == [ReplayState.DONE] * 2
    assert sorted(system.destinations["publish"].event_ids) == [view.delivery.event_id for view in old]


async def test_a_cancelled_replay_makes_no_more_deliveries(system: DeliverySystem) -> None:
    await add_dead_deliveries(system, 10)
    started = await replay(system, rate=Rate(3, SECOND), statuses=DEAD)

    await system.replayer.cancel(started.id, why="enough", actor="bob")
    await system.advance(timedelta(minutes=1))

    assert len(system.destinations["publish"].attempts) == 3
    assert (await system.replayer.find(started.id)).state is ReplayState.CANCELLED


async def test_dead_events_may_go_to_another_route(system: DeliverySystem) -> None:
    events = [view.delivery.event_id for view in await add_dead_deliveries(system)]

    await replay(system, route="publish", statuses=DEAD, to_route="other")

    assert system.destinations["other"].event_ids == events
    assert system.destinations["publish"].attempts == []


async def test_a_replay_to_a_new_route_sends_past_events_it_subscribes_to(system: DeliverySystem) -> None:
    events = [view.delivery.event_id for view in await add_dead_deliveries(system)]
    await system.route_states.hold(
        "publish", why="makes an alert, which the other route does not ask for", actor="alice"
    )

    await replay(system, since=START, to_route="other")

    assert system.destinations["other"].event_ids == events
    assert [view.delivery.replay_of for view in await system.deliveries("other")] == [None] * 3

    await replay(system, since=START, to_route="other")

    assert system.destinations["other"].event_ids == events * 2


async def test_replayed_deliveries_of_a_held_route_wait(system: DeliverySystem) -> None:
    await add_dead_deliveries(system)
    await system.route_states.hold("publish", why="", actor="alice")

    started = await replay(system, statuses=DEAD)
    await system.advance(timedelta(hours=1))

    assert (await system.replayer.find(started.id)).state is ReplayState.DONE
    assert system.destinations["publish"].attempts == []
    await system.route_states.release("publish", why="", actor="alice")
    await system.settle()
    assert len(system.destinations["publish"].attempts) == 3


async def test_an_empty_replay_is_done_at_once(system: DeliverySystem) -> None:
    started = await replay(system, statuses=DEAD)

    assert (await system.replayer.find(started.id)).state is ReplayState.DONE
    assert started.total == 0


async def test_deliveries_of_a_removed_route_are_replayed_only_to_another_route(system: DeliverySystem) -> None:
    old = await add_dead_deliveries(system, 2)
    await system.stop()
    system.routes = (a_route("other"),)
    await system.start()

    outline = await system.replayer.preview(ReplaySelection(statuses=DEAD))
    with pytest.raises(InvalidRequest, match="publish"):
        await system.replayer.preview(ReplaySelection(route="publish", statuses=DEAD))
    elsewhere = await system.replayer.preview(ReplaySelection(route="publish", statuses=DEAD, to_route="other"))

    assert outline.total == 0
    assert [each.replay_of for each in elsewhere.sample] == [view.delivery.id for view in old]
