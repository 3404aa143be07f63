"""What the store on PostgreSQL survives: lost, stalled and ended connections, restarts, and other nodes in the way."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from harness.factories import a_delivery, a_task, an_event, at
from harness.ports import free_port
from harness.postgres import PASSWORD, PostgresServer, shared_server
from harness.tcp_proxy import TcpProxy, a_tcp_proxy
from msgspec.structs import replace
from store.conftest import a_postgres_store

from receiver.domain.errors import StoreError, StoreUnavailable
from receiver.domain.model import Attempt, DeliveryStatus, Task, Verdict
from receiver.store.interfaces import ById, Change
from receiver.store.postgres.database import Address, Connection
from receiver.store.postgres.store import PostgresStore, StatementTimeouts
from receiver.store.postgres.writer import WriteOp

FIRST = ById(id="tsk_1")
SECOND = ById(id="tsk_2")
END_BACKENDS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"


def count_poll(task: Task, _pending: object = ()) -> Change:
    """Add one to the polls of a task, so that a repeated write shows."""
    return Change(task=replace(task, polling=replace(task.polling, count=task.polling.count + 1)))


async def polls(store: PostgresStore, ref: ById = FIRST) -> int:
    """Read the polls of a task."""
    found: list[int] = []

    def look(task: Task, _pending: object) -> Change:
        found.append(task.polling.count)
        return Change()

    await store.tasks.apply(ref, look)
    return found[-1]


@asynccontextmanager
async def a_store_behind_a_proxy(
    server: PostgresServer, database: str, timeouts: StatementTimeouts
) -> AsyncIterator[tuple[PostgresStore, TcpProxy]]:
    async with a_tcp_proxy(server.port) as proxy:
        address = Address(url=server.tcp_url(database, port=proxy.port), password=PASSWORD)
        store = await PostgresStore.open(address, timeouts=timeouts)
        try:
            await store.tasks.add(a_task(), b"")
            yield store, proxy
        finally:
            await store.aclose()


async def test_ended_backends_are_replaced_without_an_error(postgres: PostgresServer, postgres_database: str) -> None:
    async with a_postgres_store(postgres.url(postgres_database)) as store:
        await store.tasks.add(a_task(), b"kept")

        for _ in range(3):
            await postgres.execute(END_BACKENDS.format(postgres_database))
            await store.tasks.apply(FIRST, count_poll)
            assert await store.tasks.intent("tsk_1") == b"kept"

        assert await polls(store) == 3


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_restart_of_the_server_loses_nothing_that_was_acknowledged(tmp_path: Path, how: signal.Signals) -> None:
    with shared_server(tmp_path) as server:
        async with a_postgres_store(server.url(await server.create_database())) as store:
            await store.tasks.add(a_task(), b"")
            acknowledged = refused = 0
            server.stop(how)

            deadline = time.monotonic() + 10
            while acknowledged < 20 and time.monotonic() < deadline:
                try:
                    await store.tasks.apply(FIRST, count_poll)
                    acknowledged += 1
                except StoreUnavailable:
                    refused += 1

            assert acknowledged == 20
            assert acknowledged <= await polls(store) <= acknowledged + refused


async def test_a_stalled_connection_is_replaced_after_its_time_limit(
    postgres: PostgresServer, postgres_database: str
) -> None:
    timeouts = StatementTimeouts(write=0.3, hot_read=0.3)
    async with a_store_behind_a_proxy(postgres, postgres_database, timeouts) as (store, proxy):
        proxy.stall()
        waiting = asyncio.create_task(store.tasks.apply(FIRST, count_poll))
        await asyncio.sleep(0.1)
        proxy.cut_all()  # the stalled connections; new ones are good
        proxy.flow()

        await asyncio.wait_for(waiting, 5)
        assert await polls(store) == 1

        proxy.stall()
        reading = asyncio.create_task(store.tasks.intent("tsk_1"))
        await asyncio.sleep(0.4)
        proxy.flow()
        assert await asyncio.wait_for(reading, 5) == b""


@pytest.mark.parametrize(("is_written", "expected"), [(True, 1), (False, 0)], ids=["after", "before"])
async def test_a_commit_with_an_unknown_outcome_is_refused_and_not_repeated(
    postgres: PostgresServer, postgres_database: str, *, is_written: bool, expected: int
) -> None:
    def is_commit(sent: bytes) -> bool:
        return b"COMMIT" in sent and proxy.cuts == 0

    async with a_store_behind_a_proxy(postgres, postgres_database, StatementTimeouts()) as (store, proxy):
        if is_written:
            proxy.cut_after = is_commit
        else:
            proxy.cut_before = is_commit

        with pytest.raises(StoreUnavailable, match="lost during a commit"):
            await store.tasks.apply(FIRST, count_poll)

        assert proxy.cuts == 1
        assert await polls(store) == expected


async def test_an_attempt_whose_answer_was_lost_is_recorded_once(
    postgres: PostgresServer, postgres_database: str
) -> None:
    attempt = Attempt(
        delivery_id="dlv_1",
        number=1,
        started_at=at(4),
        duration=timedelta(),
        outcome="accepted",
        code=204,
        reason="",
        excerpt=b"the marked answer",
    )
    delivered = Verdict(status=DeliveryStatus.DELIVERED, due_at=at(5), finished_at=at(5))
    async with a_store_behind_a_proxy(postgres, postgres_database, StatementTimeouts()) as (store, proxy):
        await store.tasks.apply(FIRST, lambda *_: Change(events=[an_event()], deliveries=[a_delivery()]))
        await store.deliveries.claim("publish", now=at(9), until=at(60), limit=1, claim="mine")
        proxy.cut_after = lambda sent: b"the marked answer" in sent and proxy.cuts == 0

        assert not await store.deliveries.record_attempt(attempt, delivered, claim="mine")

        assert proxy.cuts == 1
        assert await store.catalog.attempts("dlv_1") == [attempt]
        view = await store.catalog.delivery("dlv_1")
        assert view is not None
        assert view.delivery.status is DeliveryStatus.DELIVERED


async def test_a_deadlock_with_another_node_repeats_the_group(postgres: PostgresServer, postgres_database: str) -> None:
    url = postgres.url(postgres_database)
    async with a_postgres_store(url) as store, a_raw_transaction(url) as other:
        for number in (1, 2):
            task = a_task(id=f"tsk_{number}", kling_id=f"k{number}", external_task_id=f"e{number}")
            await store.tasks.add(task, b"")
        await other.execute("SET LOCAL deadlock_timeout = '30s'")  # the store finds it
        await other.execute("SELECT 1 FROM tasks WHERE id = 'tsk_2' FOR UPDATE")
        group = asyncio.gather(*(store.tasks.apply(each, count_poll) for each in (FIRST, SECOND)))
        await asyncio.sleep(0.2)

        await other.execute("SELECT 1 FROM tasks WHERE id = 'tsk_1' FOR UPDATE")
        await other.execute("COMMIT")

        await asyncio.wait_for(group, 5)
        assert (await polls(store, FIRST), await polls(store, SECOND)) == (1, 1)


async def test_groups_of_two_nodes_lock_their_tasks_in_one_order(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as one, a_postgres_store(postgres_url) as other:
        ids = [f"tsk_{number:03}" for number in range(20)]
        for id_ in ids:
            await one.tasks.add(a_task(id=id_, kling_id=id_, external_task_id=id_), b"")

        for _ in range(5):
            forwards = [one.tasks.apply(ById(id=id_), count_poll) for id_ in ids]
            backwards = [other.tasks.apply(ById(id=id_), count_poll) for id_ in reversed(ids)]
            await asyncio.wait_for(asyncio.gather(*forwards, *backwards), 5)

        assert [await polls(one, ById(id=id_)) for id_ in ids] == [10] * len(ids)


async def test_two_nodes_never_claim_the_same_task(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as one, a_postgres_store(postgres_url) as other:
        for number in range(30):
            id_ = f"tsk_{number:03}"
            await one.tasks.add(a_task(id=id_, kling_id=id_, external_task_id=id_, due_at=a_task().created_at), b"")
        now, until = a_task().created_at, a_task().created_at.replace(year=2100)
        state = a_task().state

        claimed = await asyncio.gather(
            *(store.tasks.claim_tasks([state], now=now, until=until, limit=5) for store in (one, other) * 4)
        )

        ids = [task.id for each in claimed for task in each]
        assert len(ids) == len(set(ids)) == 30


async def test_an_event_never_commits_before_one_with_a_smaller_position(
    postgres: PostgresServer, postgres_database: str
) -> None:
    url = postgres.url(postgres_database)
    async with a_postgres_store(url) as store, a_raw_transaction(url) as other:
        await store.tasks.add(a_task(), b"")
        await other.execute("SELECT pg_advisory_xact_lock(hashtext('kling-receiver events'))")
        await other.execute(
            "INSERT INTO events (id, type, envelope, body, verified, created_at, decisions)"
            " VALUES ('evt_1', 'alert.x', '', '', 'none', 0, '[]')"
        )

        later = asyncio.create_task(store.tasks.add_events([an_event("evt_2", type="task.processing")], []))
        await asyncio.sleep(0.2)
        assert not later.done()
        await other.execute("COMMIT")
        await asyncio.wait_for(later, 5)

        found = await other.fetch("SELECT id FROM events ORDER BY seq")
        assert [row["id"] for row in found] == ["evt_1", "evt_2"]


async def test_a_node_that_stops_inside_a_transaction_loses_its_locks(postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        limit = await store._writer.execute(WriteOp(write=read_idle_limit), None)

    assert limit == "4s"


async def test_behind_a_pooler_no_statement_stays_prepared(postgres: PostgresServer, postgres_database: str) -> None:
    def like_a_pooler(block: bytes) -> bytes:
        """Change the process in the handshake, as PgBouncer does."""
        at = block.find(b"K\x00\x00\x00\x0c")
        return block if at < 0 else block[: at + 5] + b"\x00\x00\x00\x01" + block[at + 9 :]

    async with a_tcp_proxy(postgres.port) as proxy:
        prepared = []
        for change in (proxy.change_answer, like_a_pooler):
            proxy.change_answer = change
            address = Address(url=postgres.tcp_url(postgres_database, port=proxy.port), password=PASSWORD)
            store = await PostgresStore.open(address)
            await store.tasks.intent("tsk_1")
            prepared.append(await store._writer.execute(WriteOp(write=count_prepared), None))
            await store.aclose()

    assert (prepared[0] > 0, prepared[1]) == (True, 0)


async def test_a_wrong_password_is_refused_and_not_shown(postgres: PostgresServer, postgres_database: str) -> None:
    address = Address(url=postgres.tcp_url(postgres_database), password="wrong-secret")

    with pytest.raises(StoreError, match="PostgreSQL refuses access") as refused:
        await PostgresStore.open(address)

    assert not isinstance(refused.value, StoreUnavailable)
    assert "wrong-secret" not in f"{refused.value} {refused.value.__cause__} {address}"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await PostgresStore.open(Address(url=f"postgresql://postgres@127.0.0.1:{free_port()}/none"))


PREPARED = "SELECT COUNT(*) FROM pg_prepared_statements"


async def read_idle_limit(connection: Connection, _group: object) -> list[str]:
    return [await connection.fetchval("SELECT current_setting('idle_in_transaction_session_timeout')")]


async def count_prepared(connection: Connection, _group: object) -> list[int]:
    return [await connection.fetchval(PREPARED)]


@asynccontextmanager
async def a_raw_transaction(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN")
    try:
        yield connection
    finally:
        await connection.close()
