"""Searches that people type: what they find, and that each reads only a window of a list."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import Store, add_deliveries, decide_always

from receiver.domain.clock import first_id
from receiver.domain.costs import Cost
from receiver.domain.model import Attempt, DeliveryStatus, TaskState, Verdict
from receiver.store import searches
from receiver.store.interfaces import ById, Change, DeliverySearch, EventSearch, TaskSearch


def task_id(number: int) -> str:
    return first_id("tsk", at(number))


async def add_task(store: Store, number: int, body: Any = None, **changes: Any) -> str:
    given = {"kling_id": f"kling-{number}", "external_task_id": f"Mine-{number}"} | changes
    task = a_task(id=task_id(number), **given)
    await store.tasks.add(task, body if isinstance(body, bytes) else json.dumps(body or {}).encode())
    return task.id


async def find(store: Store, **search: Any) -> list[str]:
    return [task.id for task in (await store.overview.find_tasks(TaskSearch(**search), limit=50)).items]


@pytest.mark.parametrize(
    "text", ["kling-1", "mine-1", "MINE-1", "spring cat", "SPRING", "a red fox", "RED", "雪山", "100%", 'say "hi"']
)
async def test_a_text_is_found_in_ids_labels_and_prompts(store: Store, text: str) -> None:
    prompt = 'A red fox, 雪山, 100% sharp, say "hi"'
    found = await add_task(store, 1, {"prompt": prompt}, label="Spring cat")
    await add_task(store, 2, {"prompt": "another", "note": prompt})

    assert await find(store, text=text) == [found]
    assert await find(store, text=found[4:]) == [found]


@pytest.mark.parametrize("body", [b"", b"not json", b'{"prompt": NaN}', b'{"prompt": {"a": 1}}', b'{"prompt": null}'])
async def test_an_unreadable_request_does_not_fail_a_search(store: Store, body: bytes) -> None:
    await add_task(store, 1, body)
    found = await add_task(store, 2, {"prompt": "a red fox"})

    assert await find(store, text="fox") == [found]


async def test_a_large_request_is_not_searched(store: Store) -> None:
    await add_task(store, 1, {"prompt": "a red fox", "image": "x" * 70_000})

    assert await find(store, text="fox") == []


async def test_every_filter_of_a_task_search_must_match(store: Store) -> None:
    ids = [await add_task(store, number, tags={"team": "ab"[number % 2]}, label=f"l{number}") for number in range(4)]

    assert await find(store) == ids[::-1]
    assert await find(store, tags={"team": "b"}) == [ids[3], ids[1]]
    assert await find(store, tags={"team": "b"}, label="l1") == [ids[1]]
    assert await find(store, since=at(1), until=at(3)) == [ids[2], ids[1]]
    assert await find(store, states=[TaskState.QUEUED]) == []
    assert await find(store, endpoint="videos/text2video") == []


async def test_a_search_reads_one_window_and_continues_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "WINDOW", 4)
    ids = [await add_task(store, number, label="rare" if number in (0, 4) else "usual") for number in range(8)]
    search = TaskSearch(label="rare")

    pages, cursor = [], None
    while True:
        page = await store.overview.find_tasks(search, limit=5, cursor=cursor)
        pages.append(([task.id for task in page.items], page.is_partial))
        cursor = page.next
        if cursor is None:
            break

    assert pages == [([ids[4]], True), ([ids[0]], False)]


async def test_a_full_page_continues_after_its_last_item(store: Store) -> None:
    ids = [await add_task(store, number) for number in range(3)]

    first = await store.overview.find_tasks(TaskSearch(), limit=2)
    rest = await store.overview.find_tasks(TaskSearch(), limit=2, cursor=first.next)

    assert [task.id for page in (first, rest) for task in page.items] == ids[::-1]
    assert (first.is_partial, rest.next) == (False, None)


async def test_events_are_found_by_type_task_and_time(store: Store) -> None:
    first, second = await add_task(store, 1), await add_task(store, 2)
    for number, owner in ((1, first), (2, second)):
        event = an_event(first_id("evt", at(number)), task_id=owner, created_at=at(number))
        await store.tasks.apply(ById(id=owner), decide_always(Change(events=[event])))

    async def types(**search: Any) -> list[str | None]:
        return [event.task_id for event in (await store.overview.find_events(EventSearch(**search), limit=9)).items]

    assert await types() == [second, first]
    assert await types(types=["task.succeed"], task_id=first) == [first]
    assert await types(since=at(2)) == [second]
    assert await types(types=["task.failed"]) == []


async def test_deliveries_are_found_by_status_and_route(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {"finished_at": at(1), "attempts": 1}
    await add_deliveries(
        store,
        a_delivery("dlv_1", status=DeliveryStatus.DEAD, **ended),
        a_delivery("dlv_2", event_id="evt_2", status=DeliveryStatus.DELIVERED, **ended),
        a_delivery("dlv_3", event_id="evt_3", route="other"),
    )
    monkeypatch.setattr(searches, "WINDOW", 1)

    async def ids(**search: Any) -> list[str]:
        found = await store.overview.find_deliveries(DeliverySearch(**search), limit=9)
        return [view.delivery.id for view in found.items]

    assert await ids(status=DeliveryStatus.DEAD) == ["dlv_1"]  # far beyond the window
    monkeypatch.undo()
    assert await ids() == ["dlv_3", "dlv_2", "dlv_1"]
    assert await ids(status=DeliveryStatus.DEAD, route="other") == []
    assert await ids(attempted=True) == ["dlv_2", "dlv_1"]
    assert await ids(route="other") == ["dlv_3"]


async def test_the_workload_counts_a_dead_delivery_until_it_is_delivered_again(store: Store) -> None:
    await add_task(store, 1, state=TaskState.QUEUED)
    await add_deliveries(store, a_delivery("dlv_1", status=DeliveryStatus.DEAD, finished_at=at(1)))
    before = await store.overview.workload()
    await add_deliveries(store, a_delivery("dlv_2", replay_of="dlv_1"))
    after = await store.overview.workload()

    assert (before.queued, before.running, before.dead) == (1, 1, 1)
    assert after.dead == 0


async def test_the_status_dots_of_an_event_omit_replayed_deliveries(store: Store) -> None:
    await add_deliveries(
        store,
        a_delivery("dlv_1", status=DeliveryStatus.DEAD, finished_at=at(1)),
        a_delivery("dlv_2", replay_of="dlv_1"),
    )

    found = await store.overview.deliveries_of(["evt_1", "evt_unknown"])
    assert [(each.id, each.status) for each in found] == [("dlv_2", DeliveryStatus.PENDING)]


async def test_recent_attempts_include_retries_of_old_deliveries(store: Store) -> None:
    old, new = first_id("dlv", at(0)), first_id("dlv", at(7200))
    await add_deliveries(store, a_delivery(old), a_delivery(new, event_id="evt_2"))
    for number, delivery in enumerate((old, new), start=1):
        (claimed,) = await store.deliveries.claim(
            "publish", now=at(7201), until=at(9000), limit=1, claim=f"c{number}", only=delivery
        )
        attempt = Attempt(
            delivery_id=delivery,
            number=1,
            started_at=at(7200 + number),
            duration=timedelta(milliseconds=5),
            outcome="failed",
        )
        verdict = Verdict(status=DeliveryStatus.PENDING, due_at=at(9999))
        assert await store.deliveries.record_attempt(attempt, verdict, claim=f"c{number}"), claimed

    found = await store.overview.recent_attempts(since=at(7200))
    assert sorted(each.started_at for each in found) == [at(7201), at(7202)]
    assert await store.overview.recent_attempts(since=at(7203)) == []
    assert [each.delivery_id for each in await store.overview.attempts_of([old])] == [old]


async def test_the_costs_of_some_tasks_are_exact(store: Store) -> None:
    task = await add_task(store, 1)
    cost = Cost(charges={"units": Decimal("0.1")}, raw="{}")
    await store.tasks.apply(ById(id=task), decide_always(Change(cost=cost)))

    assert await store.overview.costs_of([task, "tsk_unknown"]) == {task: {"units": Decimal("0.1")}}
