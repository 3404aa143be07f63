"""Two nodes on one PostgreSQL database do the same at the same time: it happens once."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import a_postgres_store

from receiver.domain.audit import AuditEntry
from receiver.domain.batches import FinishedBatch
from receiver.domain.daily_report import LastReport
from receiver.domain.model import TaskState
from receiver.domain.replays import Replay, ReplaySelection, ReplayState, ReplayStep
from receiver.events.factory import RoutedEvent
from receiver.events.payload import envelope
from receiver.store.interfaces import RetentionTarget
from receiver.store.postgres.store import PostgresStore

ROUNDS = 5
ALICE = AuditEntry(at=at(100), actor="alice", verb="replay.started", subject="rpl_1", reason="why not")


@pytest.fixture
async def nodes(postgres_url: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    async with a_postgres_store(postgres_url) as one, a_postgres_store(postgres_url) as other:
        yield one, other


async def test_a_batch_is_finished_by_one_of_two_nodes(nodes: tuple[PostgresStore, PostgresStore]) -> None:
    for number in range(ROUNDS):
        ended = a_task(
            id=f"tsk_{number}",
            kling_id=f"k{number}",
            external_task_id=None,
            state=TaskState.SUCCEED,
            due_at=None,
            batch=f"b{number}",
        )
        await nodes[0].tasks.add(ended, b"", batch_size=1)

        def finish(_: FinishedBatch, *, number: int = number) -> RoutedEvent:
            event = an_event(f"evt_{number}", type="batch.finished", task_id=None)
            return RoutedEvent(event=event, deliveries=[a_delivery(f"dlv_{number}", event_id=event.id)])

        made = await asyncio.gather(*(node.batches.finish(f"b{number}", finish, limit=9) for node in nodes))

        assert sorted(each is not None for each in made) == [False, True]
    assert len((await nodes[0].catalog.events(types=["batch.finished"])).items) == ROUNDS


async def test_an_alert_that_two_nodes_report_is_opened_once(nodes: tuple[PostgresStore, PostgresStore]) -> None:
    for number in range(ROUNDS):
        events = [
            an_event(
                f"evt_{number}_{by}",
                type="alert.route_held",
                body=b"",
                task_id=None,
                envelope=envelope("alert.route_held", at(number), {"message": "Held.", "route": f"r{number}"}),
            )
            for by in range(2)
        ]

        await asyncio.gather(*(node.tasks.add_events([event], []) for node, event in zip(nodes, events, strict=True)))

        [alert] = (await nodes[0].alerts.list(subject=f"r{number}")).items
        assert alert.times == 2


async def test_a_daily_report_is_stored_by_one_of_two_nodes(nodes: tuple[PostgresStore, PostgresStore]) -> None:
    for number in range(ROUNDS):
        report = LastReport(day=f"2026-11-2{number}", at=at(number), callbacks_missed=0)
        routed = [
            RoutedEvent(event=an_event(f"evt_{number}_{by}", type="report.daily", task_id=None), deliveries=[])
            for by in range(2)
        ]

        added = await asyncio.gather(
            *(node.reports.add(report, event) for node, event in zip(nodes, routed, strict=True))
        )

        assert sorted(added) == [False, True]
    assert len((await nodes[0].catalog.events(types=["report.daily"])).items) == ROUNDS


async def test_a_step_of_a_replay_is_made_by_one_of_two_nodes(nodes: tuple[PostgresStore, PostgresStore]) -> None:
    await nodes[0].tasks.add_events([an_event("evt_1", type="alert.x", task_id=None, envelope=b"{}")], [])
    replay = Replay(
        id="rpl_1",
        state=ReplayState.RUNNING,
        selection=ReplaySelection(known_routes=("publish",)),
        actor="alice",
        why="why not",
        last="z",
        total=9,
        created_at=at(0),
    )
    await nodes[0].replays.add(replay, action=ALICE)
    for number in range(ROUNDS):
        current = await nodes[0].replays.find("rpl_1")
        assert current is not None
        steps = [
            ReplayStep(
                replay=current,
                deliveries=[a_delivery(f"dlv_{number}_{by}", replay_of="dlv_0")],
                cursor=f"dlv_{number}",
                finished_at=None,
            )
            for by in range(2)
        ]

        made = await asyncio.gather(*(node.replays.advance(step) for node, step in zip(nodes, steps, strict=True)))

        assert sorted(made) == [False, True]
    assert len((await nodes[0].catalog.deliveries()).items) == ROUNDS


async def test_an_event_that_another_node_is_about_to_replay_is_kept(
    nodes: tuple[PostgresStore, PostgresStore], postgres_url: str
) -> None:
    for name in ("1", "2"):
        event = an_event(f"evt_{name}", type="alert.x", task_id=None, envelope=b"{}")
        await nodes[0].tasks.add_events([event], [])
    # without prepared statements, which a pooler does not keep
    other = await asyncpg.connect(postgres_url, statement_cache_size=0)
    await other.execute("BEGIN")
    await other.execute(
        "INSERT INTO deliveries VALUES ('dlv_1', 'evt_1', 'publish', 'pending', 0, 0, 0, 0, 0, NULL, NULL, NULL)"
    )

    swept = await nodes[0].retention.sweep(RetentionTarget.EVENTS, before=at(1000), now=at(1000))
    await other.execute("COMMIT")
    await other.close()

    assert swept.deleted["events"] == 1
    assert [event.id for event in (await nodes[0].catalog.events()).items] == ["evt_1"]
    assert len((await nodes[0].catalog.deliveries()).items) == 1
