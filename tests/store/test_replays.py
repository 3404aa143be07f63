"""Replays in a store: selection, steps and single deliveries."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest
from harness.factories import a_delivery, a_task, an_event, at
from msgspec.structs import replace
from store.conftest import Opener, Store, add_deliveries

from receiver.delivery.replay import ReplayStore
from receiver.domain.audit import AuditEntry
from receiver.domain.model import DeliveryStatus
from receiver.domain.replays import Replay, ReplaySelection, ReplayState, ReplayStep

ALICE = AuditEntry(at=at(100), actor="alice", verb="replay.started", subject="rpl_1", reason="why not")
DEAD = DeliveryStatus.DEAD


@pytest.fixture
def replays(store: Store) -> ReplayStore:
    """Return the replay store."""
    return cast("ReplayStore", cast("Any", store).replays)


def a_replay(id_: str = "rpl_1", *, known_routes: Sequence[str] = ("publish", "other"), **changes: Any) -> Replay:
    """A replay of everything that ended by the hundredth second."""
    names = set(ReplaySelection.__struct_fields__)
    selection = ReplaySelection(
        known_routes=tuple(known_routes), **{name: changes.pop(name) for name in names & set(changes)}
    )
    replay = Replay(
        id=id_,
        state=ReplayState.RUNNING,
        selection=selection,
        actor="alice",
        why="why not",
        last="z",
        total=3,
        created_at=at(100),
    )
    return replace(replay, **changes)


def a_finished_delivery(id_: str, event_id: str, *, status: DeliveryStatus = DEAD, **changes: Any) -> Any:
    given = {"finished_at": at(50)} | changes
    return a_delivery(id_, event_id=event_id, status=status, **given)


async def next_items(replays: ReplayStore, replay: Replay, *, limit: int = 99) -> list[tuple[str, str, str | None]]:
    return [(each.event_id, each.route, each.replay_of) for each in await replays.next_items(replay, limit=limit)]


async def test_ended_deliveries_are_selected_oldest_first(store: Store, replays: ReplayStore) -> None:
    await add_deliveries(
        store,
        a_finished_delivery("dlv_1", "evt_1"),
        a_finished_delivery("dlv_2", "evt_2", status=DeliveryStatus.DELIVERED),
        a_finished_delivery("dlv_3", "evt_3", status=DeliveryStatus.CANCELLED, route="other"),
        a_delivery("dlv_4", event_id="evt_4"),
        a_finished_delivery("dlv_5", "evt_5", finished_at=at(101)),
    )

    assert await next_items(replays, a_replay()) == [
        ("evt_1", "publish", "dlv_1"),
        ("evt_2", "publish", "dlv_2"),
        ("evt_3", "other", "dlv_3"),
    ]
    assert await next_items(replays, a_replay(cursor="dlv_1", last="2")) == [("evt_2", "publish", "dlv_2")]
    assert len(await next_items(replays, a_replay(), limit=2)) == 2


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"statuses": (DEAD,)}, ["dlv_1", "dlv_3", "dlv_4"]),
        ({"route": "other"}, ["dlv_3"]),
        ({"events": ("evt_2", "evt_4")}, ["dlv_2", "dlv_4"]),
        ({"deliveries": ("dlv_1", "dlv_2")}, ["dlv_1", "dlv_2"]),
        ({"task_id": "tsk_1"}, ["dlv_1", "dlv_2", "dlv_3", "dlv_4"]),
        ({"task_id": "tsk_2"}, []),
        ({"since": at(2), "until": at(4)}, ["dlv_2", "dlv_3"]),
        ({"route": "publish", "statuses": (DEAD,), "since": at(2)}, ["dlv_4"]),
        ({"known_routes": ("other",)}, ["dlv_3"]),
        ({"known_routes": ()}, []),
    ],
)
async def test_each_filter_of_a_replay_applies(
    store: Store, replays: ReplayStore, wanted: dict[str, Any], ids: list[str]
) -> None:
    await add_deliveries(
        store,
        a_finished_delivery("dlv_1", "evt_1", created_at=at(1)),
        a_finished_delivery("dlv_2", "evt_2", created_at=at(2), status=DeliveryStatus.DELIVERED),
        a_finished_delivery("dlv_3", "evt_3", created_at=at(3), route="other"),
        a_finished_delivery("dlv_4", "evt_4", created_at=at(4)),
    )

    assert [replay_of for _, _, replay_of in await next_items(replays, a_replay(**wanted))] == ids


async def test_an_event_is_selected_once_per_route(store: Store, replays: ReplayStore) -> None:
    await add_deliveries(
        store,
        a_finished_delivery("dlv_1", "evt_1"),
        a_finished_delivery("dlv_2", "evt_1", route="other"),
        a_finished_delivery("dlv_3", "evt_1", replay_of="dlv_1"),
        a_finished_delivery("dlv_4", "evt_1", replay_of="dlv_3", status=DeliveryStatus.DELIVERED),
    )

    assert await next_items(replays, a_replay()) == [("evt_1", "other", "dlv_2"), ("evt_1", "publish", "dlv_4")]
    assert await next_items(replays, a_replay(statuses=(DEAD,))) == [
        ("evt_1", "other", "dlv_2"),
        ("evt_1", "publish", "dlv_3"),
    ]
    assert await next_items(replays, a_replay(statuses=(DEAD,), to_route="third")) == [("evt_1", "third", "dlv_3")]


async def test_events_are_selected_by_the_kinds_of_a_route(store: Store, replays: ReplayStore) -> None:
    await store.tasks.add(a_task(), b"")
    types = ["task.processing", "task.succeed", "alert.route_held", "batch.finished"]
    await store.tasks.add_events([an_event(f"evt_{n}", type=type_) for n, type_ in enumerate(types, start=1)], [])
    await store.tasks.add_events([], [a_delivery("dlv_1", event_id="evt_2", route="other")])

    async def words(*words: str) -> list[tuple[str, str, str | None]]:
        return await next_items(replays, a_replay(to_route="other", event_kinds=words, since=at(0)))

    assert await words("succeed", "alert") == [("evt_2", "other", "dlv_1"), ("evt_3", "other", None)]
    assert await words("batch") == [("evt_4", "other", None)]
    assert len(await words()) == 4


async def test_all_selected_items_are_counted(store: Store, replays: ReplayStore) -> None:
    await add_deliveries(
        store,
        a_finished_delivery("dlv_1", "evt_1", created_at=at(1)),
        a_finished_delivery("dlv_2", "evt_2", created_at=at(2)),
        a_finished_delivery("dlv_3", "evt_3", created_at=at(3), status=DeliveryStatus.DELIVERED),
    )

    counted = await replays.count(a_replay())

    assert [(each.route, each.status, each.count, each.oldest, each.newest) for each in counted] == [
        ("publish", DEAD, 2, at(1), at(2)),
        ("publish", DeliveryStatus.DELIVERED, 1, at(3), at(3)),
    ]


async def test_a_replay_is_stored_with_its_actor(opener: Opener) -> None:
    replay = a_replay(
        events=("evt_1",),
        statuses=(DEAD,),
        since=at(1),
        until=at(2),
        to_route="other",
        event_kinds=("succeed",),
        task_id="tsk_1",
        rate=(5, timedelta(seconds=1)),
    )
    async with opener() as store:
        await cast("Any", store).replays.add(replay, action=ALICE)

    async with opener() as store:
        replays: ReplayStore = cast("Any", store).replays
        assert await replays.find("rpl_1") == replay
        assert await replays.running() == [replay]
        assert (await replays.list()).items == [replay]
        assert await replays.find("rpl_2") is None
        assert await store.catalog.actions(subjects=["rpl_1"]) == [ALICE]


async def test_a_step_is_written_completely_or_not_at_all(store: Store, replays: ReplayStore) -> None:
    await add_deliveries(store, a_finished_delivery("dlv_1", "evt_1"))
    replay = a_replay()
    await replays.add(replay, action=ALICE)
    again = a_delivery("dlv_9", event_id="evt_1", replay_of="dlv_1")
    step = ReplayStep(replay=replay, deliveries=[again], cursor="dlv_1")

    results = [await replays.advance(step), await replays.advance(step)]

    assert results == [True, False]
    moved = replace(replay, cursor="dlv_1", created=1)
    assert await replays.find("rpl_1") == moved
    view = await store.catalog.delivery("dlv_9")
    assert view is not None
    assert view.delivery == again
    assert await replays.advance(ReplayStep(replay=moved, deliveries=[], cursor="dlv_1", finished_at=at(200)))
    assert await replays.running() == []


async def test_a_cancelled_replay_does_not_advance(store: Store, replays: ReplayStore) -> None:
    await add_deliveries(store, a_finished_delivery("dlv_1", "evt_1"))
    await replays.add(a_replay(), action=ALICE)
    cancelling = msgspec.structs.replace(ALICE, verb="replay.cancelled")

    assert await replays.cancel("rpl_1", now=at(150), action=cancelling) is True
    assert await replays.cancel("rpl_1", now=at(160), action=cancelling) is False
    assert await replays.advance(ReplayStep(replay=a_replay(), deliveries=[], cursor="dlv_1")) is False

    assert await replays.find("rpl_1") == a_replay(state=ReplayState.CANCELLED, finished_at=at(150))
    assert await store.catalog.actions() == [cancelling, ALICE]


async def test_a_pending_delivery_is_made_due_unless_in_progress(store: Store, replays: ReplayStore) -> None:
    await add_deliveries(
        store,
        a_delivery("dlv_1", event_id="evt_1", due_at=at(900)),
        a_delivery("dlv_2", event_id="evt_2", due_at=at(1)),
        a_finished_delivery("dlv_3", "evt_3"),
    )
    await store.deliveries.claim("publish", now=at(1), until=at(200), limit=1, claim="mine")

    hurried = [await replays.make_due(id_, now=at(100), action=ALICE) for id_ in ("dlv_1", "dlv_2", "dlv_3", "dlv_4")]

    assert hurried == [True, False, False, False]
    assert await store.deliveries.due_routes() == {"publish": at(100)}
    assert await store.catalog.actions() == [ALICE]


async def test_a_final_delivery_can_be_repeated_many_times(store: Store, replays: ReplayStore) -> None:
    old = a_finished_delivery("dlv_1", "evt_1")
    await add_deliveries(store, old)

    for id_ in ("dlv_2", "dlv_3"):
        await replays.add_repeat(a_delivery(id_, replay_of="dlv_1"), action=ALICE)

    kept = [view.delivery for view in (await store.catalog.deliveries(event_id="evt_1")).items]
    assert [(each.id, each.replay_of) for each in kept] == [("dlv_3", "dlv_1"), ("dlv_2", "dlv_1"), ("dlv_1", None)]
    assert kept[-1] == old


async def test_the_high_water_mark_is_the_newest_id(store: Store, replays: ReplayStore) -> None:
    assert await replays.high_water_mark() == ""

    await add_deliveries(store, a_delivery("dlv_3", event_id="evt_7"))

    assert await replays.high_water_mark() == "7"
