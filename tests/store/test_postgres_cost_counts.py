"""The counts of costs per day on PostgreSQL equal the costs themselves, whatever happens to tasks and to nodes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from random import Random

import asyncpg
import pytest
from harness.clock import START
from harness.factories import a_task
from harness.waiting import wait_until
from msgspec.structs import replace
from store.conftest import a_postgres_store, decide_always

from receiver.domain.clock import micros
from receiver.domain.costs import Cost, CostGrouping
from receiver.domain.model import Task, TaskState
from receiver.store.interfaces import ById, Change
from receiver.store.postgres.database import Connection
from receiver.store.postgres.migrate import known_migrations
from receiver.store.postgres.queries import change, write_each

COUNTS = "SELECT grouping, day, name, charges, tasks FROM cost_counts ORDER BY grouping, day, name, charges"
MIGRATION = next(each for each in known_migrations() if each.version == 4)
CHARGES = ('{"units":"1.5"}', '{"units":"1.50"}', '{"units":"0.1","list_price":"7"}', "{}")
TAGS = ("{}", '{"team":"a"}', '{"team":"b","client":"x"}', '{"":""}')
DAY = timedelta(days=1)
ONE = Cost(charges={"units": Decimal(1)}, raw="{}")


@pytest.fixture
async def raw(postgres_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def counts(raw: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await raw.fetch(COUNTS)]


async def recount(raw: Connection) -> list[tuple[object, ...]]:
    """Return the counts that the migration of the same costs makes."""
    await raw.execute("BEGIN; TRUNCATE cost_counts")
    await raw.execute(MIGRATION.sql.partition("-- The costs from before this table existed.")[2])
    found = await counts(raw)
    await raw.execute("ROLLBACK")
    return found


async def insert(raw: Connection, rng: Random, task_id: str) -> None:
    """Insert a task with a cost on one of three days."""
    await raw.execute(
        "INSERT INTO tasks (id, state, label, tags, kling_id, created_at, updated_at, origin, message, slot_key,"
        " weight, priority, fair_share, attempts, poll_count, empty_result_count, redundant_push_count)"
        " VALUES ($1, 'succeed', $2, $3, $1, 0, 0, 'api', '', '', 0, 0, '', 0, 0, 0, 0)",
        *(task_id, rng.choice((None, "x", "y")), rng.choice(TAGS)),
    )
    at = micros(START + DAY * rng.randrange(3))
    await write_each(raw, "save_cost", [(task_id, at, rng.choice(CHARGES), "{}")])


async def happen(raw: Connection, rng: Random, task_id: str) -> None:
    """Let something happen to a task or to its cost."""
    charges = rng.choice(CHARGES)
    corrected = {"task_id": task_id, "now": micros(START), "charges": charges}
    match rng.randrange(6):
        case 0:
            if await raw.fetchval("SELECT 1 FROM tasks WHERE id = $1", task_id):
                await write_each(raw, "save_cost", [(task_id, micros(START), charges, "{}")])
        case 1:
            await change(raw, "correct_cost", corrected)
        case 2:
            await change(raw, "correct_kept_cost", {"task_id": task_id, "charges": charges})
        case 3:
            tags = rng.choice(TAGS)
            await raw.execute("UPDATE tasks SET endpoint = $1, tags = $2 WHERE id = $3", charges, tags, task_id)
        case 4:
            await change(raw, "keep_cost", {"task_id": task_id})
            await change(raw, "delete_tasks", {"ids": [task_id]})
        case 5:
            await change(raw, "delete_tasks", {"ids": [task_id]})


def succeeded(task: Task) -> Task:
    return replace(task, state=TaskState.SUCCEED, due_at=None)


@pytest.mark.parametrize("seed", range(3))
async def test_counts_on_postgresql_equal_the_costs_after_any_changes_of_tasks(raw: Connection, seed: int) -> None:
    rng, most = Random(seed), 0
    for number in range(30):
        await insert(raw, rng, f"tsk_{number}")
    for _ in range(40):
        await happen(raw, rng, f"tsk_{rng.randrange(30)}")
        found = await counts(raw)
        assert found == await recount(raw)
        most = max(most, len(found))
    assert most > 20


async def test_a_cost_of_a_task_with_unreadable_tags_is_counted(raw: Connection) -> None:
    await insert(raw, Random(0), "tsk_1")

    await raw.execute("UPDATE tasks SET tags = $1", '{"team":"\\u0000","x":"\\ud800"}')

    found = await raw.fetch("SELECT grouping, tasks FROM cost_counts WHERE grouping = 'day' OR grouping LIKE 'tag:%'")
    assert [tuple(row) for row in found] == [("day", 1)]


async def test_costs_of_two_nodes_are_counted_one_after_the_other(raw: Connection, postgres_url: str) -> None:
    async with a_postgres_store(postgres_url) as store:
        for number in (1, 2):
            task = a_task(id=f"tsk_{number}", kling_id=f"k{number}", external_task_id=None, label="a")
            await store.tasks.add(task, b"")
        other = await asyncpg.connect(postgres_url)
        await other.execute("BEGIN")
        await write_each(other, "save_cost", [("tsk_2", micros(START), '{"units":"1"}', "{}")])

        ended = Change(task=succeeded(a_task(kling_id="k1", external_task_id=None, label="a")), cost=ONE)
        ending = asyncio.create_task(store.tasks.apply(ById(id="tsk_1"), decide_always(ended)))
        waits: list[str] = []

        async def is_blocked() -> bool:
            here = "wait_event_type = 'Lock' AND datname = current_database()"
            found = await raw.fetch(f"SELECT wait_event FROM pg_stat_activity WHERE {here}")  # noqa: S608 -- no input
            waits[:] = [row["wait_event"] for row in found]
            return bool(waits)

        await wait_until(is_blocked, seconds=60)
        assert waits == ["advisory"]  # before it holds the lock of any count
        await other.execute("COMMIT")
        await other.close()
        await ending

        [total] = await store.costs.totals(CostGrouping.LABEL)
        assert (total.name, total.tasks) == ("a", 2)
