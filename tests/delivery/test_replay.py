"""Replays: what is over goes out again, at its pace, through crashes, and what was stays as it was."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.delivery_system import FAILED, SECOND, Lab, a_lab
from harness.support import START

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import Accepted, DeliveryStatus, Refused
from receiver.domain.replays import Replay, ReplayState, Selection
from receiver.settings import Rate, RouteSettings, WebhookSettings
from receiver.store.interfaces import DeliveryView

DEAD = (DeliveryStatus.DEAD,)


def a_route(name: str, *on: str) -> RouteSettings:
    url = WebhookSettings(url="https://app.example.com/")
    return RouteSettings(name=name, on=frozenset(on or ("succeed",)), webhook=url)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with a_lab(tmp_path) as lab:
        lab.routes = (a_route("publish"), a_route("other", "processing"), a_route("alerts", "alert"))
        lab.a_route()
        lab.a_route("other")
        await lab.start()
        yield lab


async def kill(lab: Lab, count: int = 3) -> list[DeliveryView]:
    """Bring in so many events that all die, and mend what they died of."""
    there = lab.destinations["publish"]
    there.answer = lambda _: Refused(reason="exit 65", code=65)
    await lab.add(count)
    there.answer = lambda _: Accepted(code=204)
    there.tries.clear()
    return await lab.deliveries()


async def replay(lab: Lab, *, rate: Rate | None = None, **selection: Any) -> Replay:
    started = await lab.replayer.start(Selection(**selection), rate=rate, why="the outage", actor="alice")
    await lab.settle()
    return started


async def test_what_died_goes_out_again_under_its_own_event_id_and_its_history_stays(lab: Lab) -> None:
    before = await kill(lab)
    attempts = [await lab.attempts(view.delivery.id) for view in before]

    started = await replay(lab, route="publish", statuses=DEAD)

    assert lab.destinations["publish"].events == [view.delivery.event_id for view in before]
    after = await lab.deliveries()
    assert after[:3] == before
    assert [await lab.attempts(view.delivery.id) for view in before] == attempts
    assert [(view.delivery.replay_of, view.delivery.status) for view in after[3:]] == [
        (view.delivery.id, "delivered") for view in before
    ]
    done = await lab.replayer.find(started.id)
    assert (done.state, done.total, done.created, done.finished_at) == (ReplayState.DONE, 3, 3, START)


async def test_the_same_replay_twice_brings_all_out_twice(lab: Lab) -> None:
    events = [view.delivery.event_id for view in await kill(lab)]

    for _ in range(2):
        await replay(lab, route="publish", statuses=DEAD)

    assert lab.destinations["publish"].events == events * 2


async def test_a_replay_brings_out_nothing_of_its_own(lab: Lab) -> None:
    await lab.add(3)

    await replay(lab, route="publish")
    await lab.go_on(timedelta(hours=1))

    assert len(lab.destinations["publish"].tries) == 6
    assert len(await lab.deliveries()) == 6


async def test_a_replayed_event_has_all_its_attempts_before_it(lab: Lab) -> None:
    [old] = await kill(lab, 1)
    await lab.go_on(timedelta(hours=200))
    lab.destinations["publish"].answer = lambda parcel: FAILED if parcel.attempt < 4 else Accepted()

    await replay(lab, statuses=DEAD)
    await lab.go_on(timedelta(hours=1))

    new = (await lab.deliveries())[-1].delivery
    assert (new.replay_of, new.status, new.attempts) == (old.delivery.id, "delivered", 4)


async def test_a_replay_keeps_its_pace(lab: Lab) -> None:
    events = [view.delivery.event_id for view in await kill(lab, 12)]

    started = await replay(lab, rate=Rate(5, SECOND), statuses=DEAD)
    assert (await lab.replayer.find(started.id)).created == 5
    await lab.go_on(timedelta(minutes=1))

    there = lab.destinations["publish"]
    assert there.events == events
    assert there.moments == [START + n // 5 * SECOND for n in range(12)]
    assert (await lab.replayer.find(started.id)).state is ReplayState.DONE


async def test_a_replay_goes_on_after_a_crash_and_misses_and_doubles_nothing(lab: Lab) -> None:
    events = [view.delivery.event_id for view in await kill(lab, 10)]
    started = await replay(lab, rate=Rate(2, SECOND), statuses=DEAD)

    for _ in range(3):
        await lab.crash()
        await lab.start()
        await lab.go_on(SECOND)
    await lab.go_on(timedelta(minutes=1))

    assert lab.destinations["publish"].events == events
    done = await lab.replayer.find(started.id)
    assert (done.state, done.created) == (ReplayState.DONE, 10)


async def test_a_large_replay_goes_in_steps_to_its_end(lab: Lab) -> None:
    await kill(lab, 230)

    started = await replay(lab, route="publish", statuses=DEAD)

    assert len(set(lab.destinations["publish"].events)) == len(lab.destinations["publish"].events) == 230
    assert (await lab.replayer.find(started.id)).created == 230


async def test_two_replays_go_on_beside_each_other(lab: Lab) -> None:
    old = await kill(lab, 6)

    first = await replay(lab, rate=Rate(1, SECOND), deliveries=tuple(view.delivery.id for view in old[:3]))
    second = await replay(lab, rate=Rate(1, 2 * SECOND), deliveries=tuple(view.delivery.id for view in old[3:]))
    await lab.go_on(10 * SECOND)

    assert [(await lab.replayer.find(each.id)).state for each in (first, second)] == [ReplayState.DONE] * 2
    assert sorted(lab.destinations["publish"].events) == [view.delivery.event_id for view in old]


async def test_a_cancelled_replay_goes_no_further(lab: Lab) -> None:
    await kill(lab, 10)
    started = await replay(lab, rate=Rate(3, SECOND), statuses=DEAD)

    await lab.replayer.cancel(started.id, why="enough", actor="bob")
    await lab.go_on(timedelta(minutes=1))

    assert len(lab.destinations["publish"].tries) == 3
    assert (await lab.replayer.find(started.id)).state is ReplayState.CANCELLED


async def test_dead_events_may_go_to_another_route(lab: Lab) -> None:
    events = [view.delivery.event_id for view in await kill(lab)]

    await replay(lab, route="publish", statuses=DEAD, to_route="other")

    assert lab.destinations["other"].events == events
    assert lab.destinations["publish"].tries == []


async def test_a_new_route_may_have_what_happened_before_it_as_far_as_it_asks_for_it(lab: Lab) -> None:
    events = [view.delivery.event_id for view in await kill(lab)]
    await lab.holds.hold("publish", why="makes an alert, which the other route does not ask for", actor="alice")

    await replay(lab, since=START, to_route="other")

    assert lab.destinations["other"].events == events
    assert [view.delivery.replay_of for view in await lab.deliveries("other")] == [None] * 3

    await replay(lab, since=START, to_route="other")

    assert lab.destinations["other"].events == events * 2


async def test_what_goes_to_a_held_route_waits_there(lab: Lab) -> None:
    await kill(lab)
    await lab.holds.hold("publish", why="", actor="alice")

    started = await replay(lab, statuses=DEAD)
    await lab.go_on(timedelta(hours=1))

    assert (await lab.replayer.find(started.id)).state is ReplayState.DONE
    assert lab.destinations["publish"].tries == []
    await lab.holds.release("publish", why="", actor="alice")
    await lab.settle()
    assert len(lab.destinations["publish"].tries) == 3


async def test_a_replay_of_nothing_is_over_at_once(lab: Lab) -> None:
    started = await replay(lab, statuses=DEAD)

    assert (await lab.replayer.find(started.id)).state is ReplayState.DONE
    assert started.total == 0


async def test_deliveries_to_a_route_that_is_gone_are_left_where_they_are(lab: Lab) -> None:
    old = await kill(lab, 2)
    await lab.stop()
    lab.routes = (a_route("other"),)
    await lab.start()

    outline = await lab.replayer.outline(Selection(statuses=DEAD))
    with pytest.raises(InvalidRequest, match="publish"):
        await lab.replayer.outline(Selection(route="publish", statuses=DEAD))
    elsewhere = await lab.replayer.outline(Selection(route="publish", statuses=DEAD, to_route="other"))

    assert outline.total == 0
    assert [each.replay_of for each in elsewhere.sample] == [view.delivery.id for view in old]
