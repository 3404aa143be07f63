"""A migration while other nodes use the tables that it changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from harness.waiting import wait_until

from receiver.store.postgres.migrate import Migration, known_migrations, upgrade

# It changes the second table once the other transaction waits for the first one. So it completes the circle, and the
# server ends it: the other one looks for circles only after an hour.
STEP = Migration(
    version=9001,
    name="next_release",
    sql="""
ALTER TABLE tasks ADD COLUMN next_feature TEXT;
DO $$
BEGIN
    WHILE EXISTS (
        SELECT FROM pg_stat_activity
        WHERE application_name = 'other' AND state <> 'idle' AND wait_event_type IS DISTINCT FROM 'Lock'
    ) LOOP
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
END $$;
ALTER TABLE events ADD COLUMN next_feature TEXT;
""",
)
OTHER = {"application_name": "other", "deadlock_timeout": "1h"}
IS_CHANGING_TASKS = """
SELECT count(*) FROM pg_locks WHERE relation = 'tasks'::regclass AND mode = 'AccessExclusiveLock' AND granted
"""


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_step_that_meets_another_transaction_in_a_circle_is_repeated(postgres_url: str) -> None:
    begun: list[object] = []
    async with (
        connected(postgres_url, deadlock_timeout="20ms") as ours,
        connected(postgres_url, **OTHER) as other,
        connected(postgres_url) as watching,
    ):
        async with asyncio.timeout(60), other.transaction():
            await other.fetch("SELECT FROM events")
            upgrading = asyncio.create_task(
                upgrade(ours, [*known_migrations(), STEP], report=lambda _, values: begun.append(values["step"]))
            )
            await wait_until(lambda: watching.fetchval(IS_CHANGING_TASKS))
            await other.fetch("SELECT FROM tasks")
        applied = await upgrading

    assert applied == [STEP.title]
    assert begun == [STEP.title] * 2
