"""Which writes are synced to the disk before their caller continues: all but those that may be lost."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from random import Random

from harness.factories import at
from store.conftest import a_sqlite_store, add_route_deliveries

from receiver.store.interfaces import RetentionTarget
from receiver.store.item_error import ItemError
from receiver.store.sqlite.writer import WriteOp

NORMAL, FULL = 1, 2


def level(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA synchronous").fetchone()[0])


def _levels(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[int | ItemError]:
    if "broken" in group:
        connection.execute("INSERT INTO nowhere VALUES (1)")
    return [level(connection) for _ in group]


DURABLE: WriteOp[str, int] = WriteOp(write=_levels)
LOSABLE: WriteOp[str, int] = WriteOp(write=_levels, is_durable=False)


async def test_a_group_is_synced_if_one_of_its_writes_must_last(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        writer = store.deliveries._writer

        alone = await writer.execute(LOSABLE, "")
        together = await asyncio.gather(writer.execute(LOSABLE, ""), writer.execute(DURABLE, ""))
        after = await writer.execute(DURABLE, "")

    assert [alone, *together, after] == [NORMAL, FULL, FULL, FULL]


async def test_the_connection_syncs_again_after_any_end_of_an_unsynced_group(path: Path) -> None:
    rng = Random(3)
    async with a_sqlite_store(path) as store:
        writer = store.deliveries._writer
        for _ in range(100):
            ends = [rng.choice(["", "broken"]) for _ in range(rng.randint(1, 3))]
            calls = [asyncio.ensure_future(writer.execute(LOSABLE, end)) for end in ends]
            for _turn in range(rng.randrange(6)):
                await asyncio.sleep(0)
            rng.choice(calls).cancel()
            await asyncio.gather(*calls, return_exceptions=True)

            assert await writer.run_exclusive(level) == FULL


async def test_claims_and_sweeps_are_committed_without_a_sync(path: Path) -> None:
    run: list[str] = []
    async with a_sqlite_store(path) as store:
        await add_route_deliveries(store, 1)
        writer = store.deliveries._writer
        await writer.run_exclusive(lambda connection: connection.set_trace_callback(run.append))
        [claimed] = await store.deliveries.claim("publish", now=at(9), until=at(60), limit=1, claim="clm_1")
        await store.deliveries.release(claimed.delivery.id, claim="clm_1", now=at(9))
        await store.retention.sweep(RetentionTarget.EVENTS, before=at(100), now=at(100))
        await writer.run_exclusive(lambda connection: connection.set_trace_callback(None))

    steps = [line for line in run if line == "COMMIT" or "synchronous" in line]
    unsynced = ["PRAGMA synchronous = NORMAL", "COMMIT", "PRAGMA synchronous = FULL"]
    assert steps == [*unsynced, "COMMIT", *unsynced]
