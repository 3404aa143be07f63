"""The sums of the slots in use are always those that counting all running tasks would give."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

from harness.factories import a_task, at
from msgspec.structs import replace
from store.conftest import a_sqlite_store, decide_always

from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.migrate import known_migrations

SUMS = "SELECT * FROM running_slots WHERE submitting + confirmed > 0 ORDER BY slot_key, fair_share"
MIGRATION = next(each for each in known_migrations() if each.version == 16)


def sums_and_recount(path: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Return the stored sums, and those that a migration of the same tasks makes."""
    with closing(sqlite3.connect(path)) as raw, closing(sqlite3.connect(":memory:")) as copy:
        raw.backup(copy)
        stored = copy.execute(SUMS).fetchall()
        copy.execute("DELETE FROM running_slots")
        for statement in MIGRATION.statements():
            if "INSERT INTO running_slots" in statement and "CREATE TRIGGER" not in statement:
                copy.execute(statement)
        return stored, copy.execute(SUMS).fetchall()


async def test_the_sums_follow_every_change_of_a_task(tmp_path: Path) -> None:
    rng, path = random.Random(7), tmp_path / "receiver.db"
    async with a_sqlite_store(path) as store:
        for step in range(200):
            task = a_task(
                id=f"tsk_{rng.randrange(12)}",
                state=rng.choice([state for state in TaskState if state not in ("succeed", "failed")]),
                slot_key=rng.choice(["", "image", "video/kling-v1"]),
                weight=rng.choice([0, 1, 1, 9]),
                share=rng.choice(["", "a", "b"]),
                tags={"project": rng.choice("ab")},
                due_at=at(step),
            )
            stored = await store.catalog.task(task.id)
            if stored is None:
                await store.tasks.add(task, b"")
            elif step % 10 == 9:
                await store.tasks.assign_fair_shares(rng.choice(["", "project"]))
            else:
                share = stored.queueing.share
                changed = replace(task, queueing=replace(task.queueing, share=share))
                await store.tasks.apply(ById(id=task.id), decide_always(Change(task=changed)))

            sums, recounted = sums_and_recount(path)
            assert sums == recounted, step

    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("DELETE FROM tasks WHERE id < 'tsk_5'")
    sums, recounted = sums_and_recount(path)
    assert sums == recounted != []


async def test_the_end_of_the_last_task_of_a_share_leaves_no_row(tmp_path: Path) -> None:
    path = tmp_path / "receiver.db"
    async with a_sqlite_store(path) as store:
        task = await store.tasks.add(a_task(state=TaskState.PROCESSING, slot_key="image", share="a"), b"")
        assert await store.tasks.slots_in_use() == {"image": 1}

        await store.tasks.apply(ById(id=task.id), decide_always(Change(task=replace(task, state=TaskState.SUCCEED))))

    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT * FROM running_slots").fetchall() == []
