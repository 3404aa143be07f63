"""Lists by time of creation, and cancelled tasks as a state of their own in lists and counts."""

import asyncio
from datetime import datetime
from typing import Any, cast

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from msgspec.structs import replace
from store.conftest import Store, decide_always

from receiver.domain.clock import EPOCH, FAR_FUTURE, first_id
from receiver.domain.listed_state import ListedState
from receiver.domain.model import EndReason, TaskState
from receiver.events.payload import envelope
from receiver.store.interfaces import AlertStore, ById, Change, TaskSearch


async def fill(store: Store) -> None:
    """Store a task, an event, a delivery and an alert at each of three seconds."""
    for number in (1, 2, 3):
        moment, name = at(number), first_id("tsk", at(number))
        await store.tasks.add(a_task(id=name, external_task_id=name, kling_id=f"k{number}", created_at=moment), b"{}")
        event_id, type_ = first_id("evt", moment), "alert.route_held"
        event = an_event(
            event_id,
            type=type_,
            task_id=None,
            body=b"",
            created_at=moment,
            envelope=envelope(type_, moment, {"event_id": event_id, "message": "Held.", "route": f"r{number}"}),
        )
        delivery = a_delivery(first_id("dlv", moment), event_id=event_id, created_at=moment)
        await store.tasks.add_events([event], [delivery])


async def seconds_listed(store: Store, since: datetime | None, until: datetime | None) -> list[list[datetime]]:
    """Return the times of what each list has."""
    span: dict[str, Any] = {"since": since, "until": until}
    alerts = cast("AlertStore", cast("Any", store).alerts)
    tasks = [task.created_at for task in (await store.catalog.tasks(**span)).items]
    events = [event.created_at for event in (await store.catalog.events(**span)).items]
    after = [event.created_at for event in (await store.catalog.events(after="evt_0", **span)).items]
    deliveries = [view.delivery.created_at for view in (await store.catalog.deliveries(**span)).items]
    opened = [alert.opened_at for alert in (await alerts.list(**span)).items]
    return [tasks, events, after[::-1], deliveries, opened]


@pytest.mark.parametrize(
    ("since", "until", "listed"),
    [
        (None, None, [3, 2, 1]),
        (at(2), None, [3, 2]),
        (None, at(2), [1]),
        (at(2), at(3), [2]),
        (at(2.5), at(2.75), []),
        (at(3), at(1), []),
        (EPOCH.replace(year=1), EPOCH, []),
        (EPOCH.replace(year=1), FAR_FUTURE, [3, 2, 1]),
    ],
)
async def test_a_list_has_what_was_created_in_a_span_without_its_end(
    store: Store, since: datetime | None, until: datetime | None, listed: list[int]
) -> None:
    await fill(store)

    assert await seconds_listed(store, since, until) == [[at(number) for number in listed]] * 5


async def test_a_span_holds_on_every_page(store: Store) -> None:
    await fill(store)

    first = await store.catalog.tasks(since=at(2), limit=1)
    second = await store.catalog.tasks(since=at(2), limit=1, cursor=first.next)

    assert [page.items[0].created_at for page in (first, second)] == [at(3), at(2)]
    assert second.next is None


async def test_cancelled_tasks_are_listed_and_counted_separately_from_rejected_ones(store: Store) -> None:
    ends = {"tsk_1": EndReason.REFUSED, "tsk_2": EndReason.CANCELLED, "tsk_3": EndReason.CANCELLED, "tsk_4": None}
    for name, reason in ends.items():
        state = TaskState.REJECTED if reason else TaskState.FAILED
        task = a_task(id=name, external_task_id=name, kling_id=None, batch="b1", state=state, end_reason=reason)
        await store.tasks.add(task, b"{}")
    overview = cast("Any", store).overview
    batches = cast("Any", store).batches

    counts = await store.catalog.counts()
    assert counts == await store.catalog.counts(batch="b1") == {"rejected": 1, "cancelled": 2, "failed": 1}
    assert [view.counts for view in (await batches.list()).items] == [counts]
    assert (await store.stats())["tasks.cancelled"] == 2
    for states in ([state] for state in ListedState):
        listed = await store.catalog.tasks(states=states)
        found = await overview.find_tasks(TaskSearch(states=states), limit=9)
        assert len(listed.items) == counts.get(states[0], 0)
        assert [task.id for task in found.items] == [task.id for task in listed.items]
        assert {task.listed_state for task in listed.items} <= set(states)
    both = await store.catalog.tasks(states=[ListedState.CANCELLED, ListedState.REJECTED])
    assert [task.id for task in both.items] == ["tsk_3", "tsk_2", "tsk_1"]


async def test_a_count_without_rejected_tasks_has_none(store: Store) -> None:
    cancelled = a_task(state=TaskState.REJECTED, kling_id=None, end_reason=EndReason.CANCELLED)
    await store.tasks.add(cancelled, b"{}")

    assert await store.catalog.counts() == {"cancelled": 1}


async def test_counts_are_consistent_while_tasks_are_cancelled(store: Store) -> None:
    tasks = [a_task(id=f"tsk_{n}", kling_id=None, external_task_id=f"e{n}", batch="b1") for n in range(60)]
    for task in tasks:
        await store.tasks.add(task, b"{}")
    is_done = asyncio.Event()

    async def cancel() -> None:
        for task in tasks:
            ended = replace(task, state=TaskState.REJECTED, end_reason=EndReason.CANCELLED)
            await store.tasks.apply(ById(id=task.id), decide_always(Change(task=ended)))
        is_done.set()

    async def count() -> None:
        while not is_done.is_set():
            counts = await store.catalog.counts(batch="b1")
            (batch,) = (await cast("Any", store).batches.list()).items
            for each in (counts, batch.counts):
                assert sum(each.values()) == 60
                assert min(each.values()) > 0
                assert "rejected" not in each

    await asyncio.gather(cancel(), count(), count())
