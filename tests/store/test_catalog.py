"""The catalog of a store: look-ups, lists, filters and pages."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from store.conftest import Store, add_deliveries, decide_always

from receiver.domain.errors import InvalidRequest
from receiver.domain.model import DeliveryStatus, TaskState
from receiver.store.interfaces import ById, Change, Page


async def read_pages(page: Callable[[str | None], Awaitable[Page[str]]]) -> list[list[str]]:
    """Read all pages of a list."""
    pages = []
    cursor: str | None = None
    while True:
        one = await page(cursor)
        pages.append(list(one.items))
        cursor = one.next
        if cursor is None:
            return pages


async def test_a_task_is_found_by_each_of_its_ids(store: Store) -> None:
    await store.tasks.add(a_task(id="tsk_1", kling_id="k1", external_task_id="mine"), b"")
    await store.tasks.add(a_task(id="tsk_2", kling_id="tsk_1", external_task_id="k1"), b"")
    await store.tasks.add(a_task(id="tsk_3", kling_id=None, external_task_id="mine"), b"")

    found = [await store.catalog.task(ref) for ref in ("tsk_1", "k1", "mine", "nobody's")]

    assert [task and task.id for task in found] == ["tsk_1", "tsk_1", "tsk_3", None]


async def test_tasks_are_listed_newest_first_page_by_page(store: Store) -> None:
    for n in range(7):
        await store.tasks.add(a_task(id=f"tsk_{n}"), b"")

    async def page(cursor: str | None) -> Page[str]:
        listed = await store.catalog.tasks(limit=3, cursor=cursor)
        return Page(items=[task.id for task in listed.items], next=listed.next)

    assert await read_pages(page) == [["tsk_6", "tsk_5", "tsk_4"], ["tsk_3", "tsk_2", "tsk_1"], ["tsk_0"]]


async def test_the_last_page_has_no_cursor(store: Store) -> None:
    assert await store.catalog.tasks() == Page(items=[], next=None)

    for n in range(3):
        await store.tasks.add(a_task(id=f"tsk_{n}"), b"")

    assert (await store.catalog.tasks(limit=3)).next is None
    assert (await store.catalog.tasks(limit=2)).next is not None


async def test_task_filters_are_combined(store: Store) -> None:
    await store.tasks.add(a_task(id="tsk_1", label="x", tags={"project": "ads", "n": "1"}), b"")
    await store.tasks.add(a_task(id="tsk_2", label="y", tags={"project": "ads", "n": "2"}, state=TaskState.FAILED), b"")
    await store.tasks.add(a_task(id="tsk_3", endpoint="videos/text2video", tags={"project": "'; DROP"}), b"")

    async def ids(**filters: Any) -> list[str]:
        return [task.id for task in (await store.catalog.tasks(**filters)).items]

    assert await ids(states=[TaskState.FAILED]) == ["tsk_2"]
    assert await ids(states=[TaskState.FAILED, TaskState.SUBMITTED]) == ["tsk_3", "tsk_2", "tsk_1"]
    assert await ids(endpoint="videos/text2video") == ["tsk_3"]
    assert await ids(label="x") == ["tsk_1"]
    assert await ids(tags={"project": "ads"}) == ["tsk_2", "tsk_1"]
    assert await ids(tags={"project": "ads", "n": "2"}) == ["tsk_2"]
    assert await ids(tags={"project": "ads"}, label="x") == ["tsk_1"]
    assert await ids(tags={"project": "'; DROP"}) == ["tsk_3"]
    assert await ids(tags={"nobody": "1"}) == []


async def test_pushes_are_listed_oldest_first(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    for id_ in ("psh_1", "psh_2"):
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=a_push(id_))))

    assert [push.id for push in await store.catalog.pushes("tsk_1")] == ["psh_1", "psh_2"]
    assert await store.catalog.pushes("tsk_none") == []


async def add_events(store: Store, *ids: str) -> None:
    for id_ in ids:
        await store.tasks.add_events([an_event(id_, type=f"alert.{id_[-1]}", task_id=None)], [])


async def test_events_are_listed_newest_first_page_by_page(store: Store) -> None:
    await add_events(store, "evt_1", "evt_2", "evt_3")

    async def page(cursor: str | None) -> Page[str]:
        listed = await store.catalog.events(limit=2, cursor=cursor)
        return Page(items=[event.id for event in listed.items], next=listed.next)

    assert await read_pages(page) == [["evt_3", "evt_2"], ["evt_1"]]


async def test_events_after_one_are_listed_oldest_first_by_page(store: Store) -> None:
    await add_events(store, "evt_1", "evt_2", "evt_3", "evt_4")

    async def page(cursor: str | None) -> Page[str]:
        listed = await store.catalog.events(after="evt_1", limit=2, cursor=cursor)
        return Page(items=[event.id for event in listed.items], next=listed.next)

    assert await read_pages(page) == [["evt_2", "evt_3"], ["evt_4"]]


async def test_an_event_committed_late_is_not_missed(store: Store) -> None:
    await add_events(store, "evt_1", "evt_5", "evt_3")

    assert [event.id for event in (await store.catalog.events(after="evt_5")).items] == ["evt_3"]
    assert [event.id for event in (await store.catalog.events(after="evt_1")).items] == ["evt_5", "evt_3"]


async def test_a_deleted_event_still_marks_a_position(store: Store) -> None:
    await add_events(store, "evt_1", "evt_3")

    assert [event.id for event in (await store.catalog.events(after="evt_2")).items] == ["evt_3"]
    assert [event.id for event in (await store.catalog.events(after="evt_0")).items] == ["evt_1", "evt_3"]
    assert (await store.catalog.events(after="evt_9")).items == []


async def test_events_are_filtered_by_type_and_task(store: Store) -> None:
    await store.tasks.add(a_task(), b"", events=[an_event("evt_1", type="task.submitted"), an_event("evt_2")])
    await store.tasks.add_events([an_event("evt_3", type="alert.route_held", task_id=None)], [])

    async def ids(**filters: Any) -> list[str]:
        return [event.id for event in (await store.catalog.events(**filters)).items]

    assert await ids(types=["task.succeed", "alert.route_held"]) == ["evt_3", "evt_2"]
    assert await ids(task_id="tsk_1") == ["evt_2", "evt_1"]
    assert await ids(task_id="tsk_1", types=["task.succeed"]) == ["evt_2"]
    assert await ids(after="evt_1", types=["alert.route_held"]) == ["evt_3"]
    assert await ids(after="evt_0", task_id="tsk_1") == ["evt_1", "evt_2"]
    assert await store.catalog.event("evt_none") is None


async def test_deliveries_are_listed_with_event_type_and_task(store: Store) -> None:
    await store.tasks.add(a_task(), b"", events=[an_event("evt_1")])
    await store.tasks.add_events(
        [an_event("evt_2", type="alert.route_held", task_id=None)],
        [a_delivery("dlv_1"), a_delivery("dlv_2", event_id="evt_2")],
    )

    views = (await store.catalog.deliveries()).items

    assert [(view.delivery.id, view.event_type, view.task_id) for view in views] == [
        ("dlv_2", "alert.route_held", None),
        ("dlv_1", "task.succeed", "tsk_1"),
    ]
    assert await store.catalog.delivery("dlv_1") == views[1]
    assert await store.catalog.delivery("dlv_none") is None


async def test_delivery_filters_are_combined_and_paged(store: Store) -> None:
    dead: dict[str, Any] = {"status": DeliveryStatus.DEAD, "finished_at": at(1)}
    await add_deliveries(
        store,
        a_delivery("dlv_1", route="a"),
        a_delivery("dlv_2", route="b", **dead),
        a_delivery("dlv_3", route="a", event_id="evt_2", **dead),
    )
    await store.tasks.add_events(
        [an_event("evt_9", type="alert.x", task_id=None)], [a_delivery("dlv_4", event_id="evt_9")]
    )

    async def ids(**filters: Any) -> list[str]:
        listed = await store.catalog.deliveries(**filters)
        return [view.delivery.id for view in listed.items]

    assert await ids(route="a") == ["dlv_3", "dlv_1"]
    assert await ids(statuses=[DeliveryStatus.DEAD]) == ["dlv_3", "dlv_2"]
    assert await ids(statuses=[DeliveryStatus.DEAD], route="a") == ["dlv_3"]
    assert await ids(event_id="evt_1") == ["dlv_2", "dlv_1"]
    assert await ids(task_id="tsk_1") == ["dlv_3", "dlv_2", "dlv_1"]
    assert await ids(task_id="tsk_1", cursor=(await store.catalog.deliveries(limit=2)).next) == ["dlv_2", "dlv_1"]
    assert await ids(task_id="tsk_none") == []


@pytest.mark.parametrize("cursor", ["", "%%%", "x", "Zm9v", "w6k", "dHNrXzE=\n", "\N{SNOWMAN}"])
async def test_an_invalid_cursor_is_an_invalid_request(store: Store, cursor: str) -> None:
    for listed in (store.catalog.tasks, store.catalog.events, store.catalog.deliveries):
        with pytest.raises(InvalidRequest):
            await listed(cursor=cursor)


async def test_a_cursor_of_another_list_is_an_invalid_request(store: Store) -> None:
    for n in range(2):
        await store.tasks.add(a_task(id=f"tsk_{n}"), b"")
    of_tasks = (await store.catalog.tasks(limit=1)).next

    with pytest.raises(InvalidRequest):
        await store.catalog.events(cursor=of_tasks)


async def test_attempts_of_an_unknown_delivery_are_none(store: Store) -> None:
    assert await store.catalog.attempts("dlv_none") == []
    assert await store.catalog.backlog() == []
