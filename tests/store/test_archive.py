"""Archiving in a store: deliveries wait for the files, and each update is written completely."""

from typing import Any

from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import Opener, Store, decide_always

from receiver.domain.model import ArchiveState, Asset, Delivery, Event
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import ArchiveUpdate, ById, Change

ASSET = Asset(number=0, url="https://a.example/0.png", path="/r/0.png", sha256=b"\1" * 32, size=7, content_type="x")


async def a_pending_event(store: Store, event_id: str, *deliveries: Delivery, **changes: Any) -> Event:
    """Store an event whose results are to be archived."""
    task = await store.tasks.add(a_task(id=f"tsk_{event_id}", external_task_id=event_id, kling_id=event_id), b"")
    event = an_event(event_id, task_id=task.id, **{"archiving": ArchiveState.PENDING, "created_at": at(0)} | changes)
    await store.tasks.apply(ById(id=task.id), decide_always(Change(events=[event], deliveries=deliveries)))
    return event


def an_archive_update(event: Event, **changes: Any) -> ArchiveUpdate:
    return ArchiveUpdate(event_id=event.id, **{"envelope": b'{"data":{}}', "assets": [ASSET]} | changes)


async def test_archiving_is_due_from_the_event_on(store: Store) -> None:
    later = await a_pending_event(store, "evt_2", created_at=at(2))
    first = await a_pending_event(store, "evt_1", created_at=at(1))
    await a_pending_event(store, "evt_3", archiving=None)

    assert await store.archive.due_events(now=at(0), exclude=(), limit=9) == []
    assert await store.archive.due_events(now=at(1), exclude=(), limit=9) == [first]
    assert await store.archive.due_events(now=at(9), exclude=(), limit=9) == [first, later]
    assert await store.archive.due_events(now=at(9), exclude=[first.id], limit=9) == [later]
    assert await store.archive.due_events(now=at(9), exclude=(), limit=1) == [first]
    assert await store.archive.next_due(exclude=()) == at(1)
    assert await store.archive.next_due(exclude=[first.id]) == at(2)
    assert await store.archive.next_due(exclude=[first.id, later.id]) is None


async def test_files_event_and_deliveries_are_saved_together(store: Store) -> None:
    waiting = a_delivery(event_id="evt_1", due_at=at(3600))
    event = await a_pending_event(store, "evt_1", waiting)

    assert await store.archive.save(an_archive_update(event, deliver_at=at(5)))

    found = await store.catalog.event(event.id)
    assert found is not None
    assert (found.envelope, found.archiving, found.body) == (b'{"data":{}}', None, event.body)
    [claimed] = await store.deliveries.claim("publish", now=at(5), until=at(60), limit=1, claim="c")
    assert claimed.event.envelope == b'{"data":{}}'
    assert await store.archive.next_due(exclude=()) is None


async def test_deliveries_wait_until_the_last_file(store: Store) -> None:
    event = await a_pending_event(store, "evt_1", a_delivery(event_id="evt_1", due_at=at(3600)))

    assert await store.archive.save(an_archive_update(event, archiving=ArchiveState.PENDING, archive_at=at(30)))

    assert await store.deliveries.due_routes() == {"publish": at(3600)}
    assert await store.archive.due_events(now=at(29), exclude=(), limit=9) == []
    [found] = await store.archive.due_events(now=at(30), exclude=(), limit=9)
    assert found.archiving is ArchiveState.PENDING


async def test_only_waiting_deliveries_become_due(store: Store) -> None:
    event = await a_pending_event(
        store,
        "evt_1",
        a_delivery("dlv_waits", event_id="evt_1", route="a", due_at=at(3600)),
        a_delivery("dlv_tried", event_id="evt_1", route="b", due_at=at(900), attempts=2),
        a_delivery("dlv_claimed", event_id="evt_1", route="c", due_at=at(1)),
        a_delivery("dlv_due", event_id="evt_1", route="d", due_at=at(1)),
    )
    await store.deliveries.claim("c", now=at(2), until=at(600), limit=1, claim="mine")

    await store.archive.save(an_archive_update(event, archiving=ArchiveState.LATE, archive_at=at(60), deliver_at=at(5)))

    assert await store.deliveries.due_routes() == {"a": at(5), "b": at(900), "c": at(600), "d": at(1)}


async def test_alerts_are_saved_with_the_update_or_not_at_all(store: Store) -> None:
    event = await a_pending_event(store, "evt_1")
    alert = an_event("evt_alert", type="alert.asset_lost", task_id=event.task_id)
    routed = RoutedEvent(event=alert, deliveries=[a_delivery("dlv_alert", event_id="evt_alert", route="mail")])

    assert await store.archive.save(an_archive_update(event, alerts=[routed]))
    assert not await store.archive.save(an_archive_update(event, alerts=[routed])), "nothing more is to come for it"
    assert not await store.archive.save(ArchiveUpdate(event_id="evt_none", envelope=b"{}", alerts=[routed]))

    assert await store.catalog.event("evt_alert") == alert
    assert await store.deliveries.due_routes() == {"mail": alert.created_at}


async def test_the_same_file_is_stored_once(opener: Opener) -> None:
    async with opener() as store:
        event = await a_pending_event(store, "evt_1")
        for _ in range(2):
            assert await store.archive.save(an_archive_update(event, archiving=ArchiveState.LATE, archive_at=at(9)))

    async with opener() as store:
        [found] = await store.archive.due_events(now=at(9), exclude=(), limit=9)
        assert (found.id, found.archiving) == ("evt_1", ArchiveState.LATE)


async def test_later_archiving_can_be_made_due_now(store: Store) -> None:
    await a_pending_event(store, "evt_1", created_at=at(1))
    await a_pending_event(store, "evt_2", created_at=at(9000))
    await a_pending_event(store, "evt_3", archiving=None)

    assert await store.archive.make_all_due(now=at(5)) == 1
    assert await store.archive.make_all_due(now=at(5)) == 0

    assert [event.id for event in await store.archive.due_events(now=at(5), exclude=(), limit=9)] == ["evt_1", "evt_2"]


async def test_abandoned_archiving_makes_deliveries_due(store: Store) -> None:
    event = await a_pending_event(store, "evt_1", a_delivery(event_id="evt_1", due_at=at(3600)))
    late = await a_pending_event(store, "evt_2", archiving=ArchiveState.LATE)

    assert await store.archive.abandon_all(now=at(7)) == 2

    assert await store.deliveries.due_routes() == {"publish": at(7)}
    assert [found.archiving for found in (await store.catalog.events()).items] == [None, None]
    assert {event.id, late.id} == {found.id for found in (await store.catalog.events()).items}
    assert await store.archive.abandon_all(now=at(8)) == 0
