"""How the store on PostgreSQL writes many rows: few statements, by index, and never too many bytes at once."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.waiting import wait_until
from msgspec.structs import replace
from store.conftest import a_postgres_store, decide_always

from receiver.domain.model import Attempt, DeliveryStatus, PushOutcome, Task, TaskState, Verdict
from receiver.store.interfaces import ById, Change
from receiver.store.postgres.database import Connection
from receiver.store.postgres.queries import Statement, write_together
from receiver.store.postgres.store import PostgresStore
from receiver.store.postgres.writer import Writer

MANY = 40
DELIVERED = Verdict(status=DeliveryStatus.DELIVERED, due_at=at(5), finished_at=at(5))
DEAD = Verdict(status=DeliveryStatus.DEAD, due_at=at(5), finished_at=at(5))


async def log_statements(writer: Writer) -> list[str]:
    """Return the list of the statements that a writer sends from now on."""
    sent: list[str] = []

    def log(logged: LoggedQuery) -> None:
        if "pg_type" not in logged.query and "'jit'" not in logged.query:  # the driver looks types up once
            sent.append(logged.query)

    async def start(connection: Connection) -> None:
        connection.add_query_logger(log)

    await writer.run_alone(start)
    return sent


def acknowledge(number: int) -> Change:
    """What a callback changes: its task, with a push, an event and a delivery."""
    task_id, event_id = f"tsk_{number:03}", f"evt_{number:03}"
    push = a_push(f"psh_{number:03}", task_id=task_id, outcome=PushOutcome.APPLIED)
    event = an_event(event_id, task_id=task_id, type="task.processing", push_id=push.id)
    return Change(
        task=replace(a_task_number(number), state=TaskState.PROCESSING, updated_at=at(9)),
        push=push,
        events=(event,),
        deliveries=(a_delivery(f"dlv_{number:03}", event_id=event_id),),
    )


def a_task_number(number: int) -> Task:
    return a_task(id=f"tsk_{number:03}", kling_id=f"k{number}", external_task_id=f"tsk_{number:03}")


async def apply(store: PostgresStore, number: int) -> None:
    await store.tasks.apply(ById(id=f"tsk_{number:03}"), decide_always(acknowledge(number)))


async def acknowledge_all(store: PostgresStore) -> None:
    await asyncio.gather(*(store.tasks.add(a_task_number(number), b"{}") for number in range(MANY)))
    await asyncio.gather(*(apply(store, number) for number in range(MANY)))


async def record_all(store: PostgresStore, verdict: Verdict = DELIVERED) -> None:
    claimed = await store.deliveries.claim("publish", now=at(99), until=at(200), limit=MANY, claim="mine")
    attempts = [
        Attempt(
            delivery_id=each.delivery.id,
            number=1,
            started_at=at(4),
            duration=timedelta(),
            outcome="accepted",
            code=204,
            reason="",
            excerpt=b"",
        )
        for each in claimed
    ]
    assert len(attempts) == MANY
    assert all(
        await asyncio.gather(*(store.deliveries.record_attempt(each, verdict, claim="mine") for each in attempts))
    )


async def test_a_group_of_callbacks_takes_four_statements_and_one_of_attempts_takes_one(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        await asyncio.gather(*(store.tasks.add(a_task_number(number), b"{}") for number in range(MANY)))
        sent = await log_statements(store._writer)

        await asyncio.gather(*(apply(store, number) for number in range(MANY)))
        assert [statement.split()[0] for statement in sent] == ["BEGIN;", "SELECT", "WITH", "COMMIT"]

        sent = await log_statements(store.deliveries._writer)
        await record_all(store)
        assert ["UPDATE deliveries" in statement for statement in sent] == [True, True]


async def test_tasks_that_change_different_columns_keep_their_other_values(postgres_url: str) -> None:
    changed = [
        replace(a_task_number(0), state=TaskState.PROCESSING),
        replace(a_task_number(1), state=TaskState.SUCCEED, tags={"a": "b"}, is_end_unverified=True, due_at=None),
        replace(a_task_number(2), token_hash=b"2" * 32, due_at=None),
        a_task_number(3),
    ]
    async with a_postgres_store(postgres_url) as store:
        for number in range(4):
            await store.tasks.add(a_task_number(number), b"{}")

        await asyncio.gather(
            *(store.tasks.apply(ById(id=task.id), decide_always(Change(task=task))) for task in changed)
        )

        assert [await store.catalog.task(task.id) for task in changed] == changed


async def test_a_new_database_is_written_by_index_before_it_has_statistics(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        await acknowledge_all(store)
        await record_all(store)

    watcher = await asyncpg.connect(postgres_url)

    async def scans() -> dict[str, int]:
        # The server counts the scans of a session when that ends.
        found = await watcher.fetch("SELECT relname, seq_scan, n_tup_ins FROM pg_stat_user_tables WHERE n_tup_ins > 0")
        return {row["relname"]: row["seq_scan"] for row in found}

    async def has_counted() -> bool:
        return (await scans()).keys() >= {"tasks", "pushes", "events", "deliveries", "attempts"}

    await wait_until(has_counted)
    found = await scans()
    await watcher.close()
    assert {table: found[table] for table in ("tasks", "pushes", "deliveries")} == {
        "tasks": 0,
        "pushes": 0,
        "deliveries": 0,
    }


@pytest.mark.parametrize("limit", [1, 3000, 1 << 30])
async def test_large_bodies_are_written_in_several_statements(
    postgres_url: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.store.postgres.queries._MAX_BYTES", limit)
    async with a_postgres_store(postgres_url) as store:
        for number in range(4):
            await store.tasks.add(a_task_number(number), b"{}")
        sent = await log_statements(store._writer)

        async def write(connection: Connection) -> None:
            await write_together(
                connection,
                (Statement("save_intent"), [(f"tsk_{number:03}", bytes([number]) * 1000) for number in range(4)]),
                (Statement("insert_request_digest"), [("tsk_000", b"d" * 32)]),
                (Statement("insert_action"), []),
            )

        await store._writer.run_alone(write)

        assert len(sent) == {1: 4, 3000: 2, 1 << 30: 1}[limit]
        assert [await store.tasks.intent(f"tsk_{number:03}") for number in range(4)] == [
            bytes([number]) * 1000 for number in range(4)
        ]
        assert await store.tasks.request_digest("tsk_000") == b"d" * 32


async def test_the_deaths_of_a_group_raise_the_total_of_each_route_once_per_delivery(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        await acknowledge_all(store)
        await record_all(store, DEAD)

        totals = await store.totals.read()

    assert [dict(labels) for total, labels in totals.items() if total.value == "deliveries_dead"] == [{"publish": MANY}]


async def test_deliveries_do_not_wait_for_a_group_of_callbacks(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        await acknowledge_all(store)
        other = await asyncpg.connect(postgres_url)
        await other.execute("BEGIN")
        await other.execute("SELECT 1 FROM tasks WHERE id = 'tsk_000' FOR UPDATE")
        callback = asyncio.create_task(store.tasks.apply(ById(id="tsk_000"), decide_always(Change())))

        await record_all(store)

        assert not callback.done()
        await other.execute("COMMIT")
        await other.close()
        await callback


async def test_writes_after_a_claim_are_synced_to_disk_again(postgres_url: str) -> None:
    async def setting(connection: Connection) -> str:
        return str(await connection.fetchval("SELECT current_setting('synchronous_commit')"))

    async with a_postgres_store(postgres_url) as store:
        await acknowledge_all(store)

        claimed = await store.deliveries.claim("publish", now=at(99), until=at(200), limit=MANY, claim="mine")

        assert len(claimed) == MANY
        assert await store.deliveries._writer.run_alone(setting) == "on"
