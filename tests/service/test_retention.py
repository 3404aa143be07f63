"""Retention deletes old data, and keeps what is still needed."""

import pytest
from harness.clock import START
from harness.factories import an_event
from harness.retention_system import DAY, RetentionSystem
from harness.store_fixtures import AnyStore

from receiver.domain.audit import AuditEntry
from receiver.domain.model import (
    ArchiveState,
    DeliveryStatus,
    PushOutcome,
    RouteState,
    TaskState,
)
from receiver.store.interfaces import ById, Change
from receiver.store.retention_pages import PAGE_SIZE


@pytest.fixture
def system(any_store: AnyStore) -> RetentionSystem:
    return RetentionSystem(any_store)


async def test_an_old_task_is_deleted_with_its_data(system: RetentionSystem) -> None:
    task = await system.add_task()
    await system.add_push(task)
    await system.add_event(task, "publish", "mail")
    await system.deliver("publish")
    await system.deliver("mail", DeliveryStatus.DEAD)

    system.clock.advance(91 * DAY)
    deleted = await system.sweep()

    assert deleted == {
        "bodies": 1, "intents": 1, "events": 1, "deliveries": 2, "attempts": 2, "tasks": 1, "pushes": 1,
    }  # fmt: skip
    stats = await system.store.stats()
    assert {name: count for name, count in stats.items() if count and not name.startswith("bytes.")} == {}
    assert await system.store.tasks.intent(task.id) == b""


async def test_nothing_is_deleted_early(system: RetentionSystem) -> None:
    task = await system.add_task()
    await system.add_push(task)
    await system.add_event(task, "publish")
    await system.deliver("publish")

    system.clock.advance(29 * DAY)

    assert await system.sweep() == {}


async def test_bodies_are_deleted_first_and_digests_stay(system: RetentionSystem) -> None:
    task = await system.add_task()
    push = await system.add_push(task)
    event = await system.add_event(task, "publish")
    await system.deliver("publish")

    system.clock.advance(31 * DAY)

    assert await system.sweep() == {"bodies": 1, "intents": 1}
    [left] = await system.store.catalog.pushes(task.id)
    assert left.body == b""
    assert (left.digest, left.outcome, left.headers) == (push.digest, push.outcome, push.headers)
    assert await system.store.tasks.intent(task.id) == b""
    kept = await system.store.catalog.event(event)
    assert kept is not None
    assert kept.body, "a replay needs the body as long as the event exists"


async def test_the_body_of_a_pending_push_is_kept(system: RetentionSystem) -> None:
    task = await system.add_task(TaskState.PROCESSING, due_at=START + 1000 * DAY)
    waiting = await system.add_push(task, PushOutcome.PENDING)

    system.clock.advance(500 * DAY)
    await system.sweep()

    assert [push.body for push in await system.store.catalog.pushes(task.id)] == [waiting.body]
    settled = Change(resolved={waiting.id: PushOutcome.APPLIED})
    await system.store.tasks.apply(ById(id=task.id), lambda _task, _pending: settled)
    assert await system.sweep() == {"bodies": 1}


async def test_an_unsent_intent_is_kept(system: RetentionSystem) -> None:
    queued = await system.add_task(TaskState.QUEUED, due_at=START + 1000 * DAY)
    uncertain = await system.add_task(TaskState.SUBMITTING, due_at=START + 1000 * DAY)
    running = await system.add_task(TaskState.PROCESSING, due_at=START + 1000 * DAY)

    system.clock.advance(500 * DAY)
    await system.sweep()

    assert [await system.store.tasks.intent(task.id) != b"" for task in (queued, uncertain, running)] == [
        True,
        True,
        False,
    ]


async def test_an_event_with_a_pending_delivery_is_kept(system: RetentionSystem) -> None:
    task = await system.add_task()
    event = await system.add_event(task, "publish", "held")
    await system.deliver("publish")

    system.clock.advance(200 * DAY)
    assert "events" not in await system.sweep()
    assert await system.store.catalog.event(event) is not None

    await system.deliver("held")
    deleted = await system.sweep()
    assert (deleted["events"], deleted["deliveries"], deleted["tasks"]) == (1, 2, 1)


async def test_a_held_route_does_not_keep_later_events(system: RetentionSystem) -> None:
    waiting = [await system.add_task() for _ in range(3)]
    for task in waiting:
        await system.add_event(task, "held")
    for _ in range(PAGE_SIZE * 2):
        await system.add_event(await system.add_task(), "publish")
    await system.deliver("publish")

    system.clock.advance(91 * DAY)
    deleted = await system.sweep()

    assert deleted["events"] == deleted["tasks"] == PAGE_SIZE * 2
    left = await system.store.catalog.tasks(limit=9)
    assert [task.id for task in left.items] == [task.id for task in reversed(waiting)]


async def test_an_event_in_archiving_is_kept(system: RetentionSystem) -> None:
    task = await system.add_task()
    event = await system.add_event(task, archiving=ArchiveState.LATE)

    system.clock.advance(91 * DAY)

    assert "events" not in await system.sweep()
    assert await system.store.catalog.event(event) is not None


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.SUBMITTING, TaskState.SUBMITTED, TaskState.PROCESSING])
async def test_an_unfinished_task_keeps_its_data(system: RetentionSystem, state: TaskState) -> None:
    task = await system.add_task(state, due_at=START + 1000 * DAY, expires_at=START + 30 * DAY)
    event = await system.add_event(task, kind="task.submitted")
    push = await system.add_push(task)

    system.clock.advance(500 * DAY)
    await system.sweep()

    assert await system.store.catalog.task(task.id) == task
    assert await system.store.catalog.event(event) is not None
    assert [left.id for left in await system.store.catalog.pushes(task.id)] == [push.id]


async def test_an_unused_callback_url_is_deleted_after_its_expiry(system: RetentionSystem) -> None:
    expired = await system.add_task(TaskState.AWAITING, endpoint=None, expires_at=START + 30 * DAY, body=b"")
    good = await system.add_task(TaskState.AWAITING, endpoint=None, expires_at=START + 900 * DAY, body=b"")

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"tasks": 1}
    assert await system.store.catalog.task(expired.id) is None
    assert await system.store.catalog.task(good.id) == good


async def test_a_task_without_callbacks_and_polls_has_ended(system: RetentionSystem) -> None:
    task = await system.add_task(TaskState.PROCESSING, endpoint=None, expires_at=START + 30 * DAY)
    await system.add_event(task, kind="task.processing")

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"intents": 1, "events": 1, "tasks": 1}


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED])
async def test_every_final_state_counts_as_ended(system: RetentionSystem, state: TaskState) -> None:
    task = await system.add_task(state)
    await system.add_event(task, kind=f"task.{state}")

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"intents": 1, "events": 1, "tasks": 1}


async def test_the_age_of_an_ended_task_counts_from_its_last_update(system: RetentionSystem) -> None:
    task = await system.add_task(updated_at=START + 80 * DAY)
    await system.add_event(task)

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"intents": 1, "events": 1}
    assert await system.store.catalog.task(task.id) is not None


async def test_alerts_and_audit_entries_are_deleted(system: RetentionSystem) -> None:
    now = system.clock.now()
    alert = an_event(system.ids.new("evt"), type="alert.route_held", task_id=None, created_at=now)
    await system.store.tasks.add_events([alert], [])
    for at in (now, now + 90 * DAY):
        action = AuditEntry(at=at, actor="api", verb="route.held", subject="publish")
        await system.store.deliveries.save_route(RouteState(name="publish"), action=action)

    system.clock.advance(91 * DAY)

    assert await system.sweep() == {"events": 1, "actions": 1}
