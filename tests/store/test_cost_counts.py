"""The counts of costs per day equal the costs themselves, whatever happens to tasks; sums of a period read both."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from harness.clock import START
from harness.factories import a_task
from store.conftest import Store, decide_always

from receiver.domain.clock import micros
from receiver.domain.costs import Cost, CostGrouping, CostTotal, add_charges
from receiver.domain.model import Task, TaskState
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.database import connect_writer
from receiver.store.sqlite.migrate import known_migrations, upgrade
from receiver.store.sqlite.queries import sql

COUNTS = "SELECT grouping, day, name, charges, tasks FROM cost_counts ORDER BY grouping, day, name, charges"
MIGRATION = next(each for each in known_migrations() if each.version == 14)
CHARGES = ('{"units":"1.5"}', '{"units":"1.50"}', '{"units":"0.1","list_price":"7"}', "{}")
TAGS = ("{}", '{"team":"a"}', '{"team":"b","client":"x"}', '{"":""}')
DAY = timedelta(days=1)


def recount(raw: sqlite3.Connection) -> list[tuple[object, ...]]:
    """Return the counts that a migration of the same costs makes."""
    with closing(sqlite3.connect(":memory:")) as copy:
        raw.backup(copy)
        copy.execute("DELETE FROM cost_counts")
        for statement in MIGRATION.statements():
            if "INSERT INTO cost_changes\nSELECT" in statement and "CREATE TRIGGER" not in statement:
                copy.execute(statement)
        return copy.execute(COUNTS).fetchall()


def insert(raw: sqlite3.Connection, rng: Random, task_id: str) -> None:
    """Insert a task with a cost on one of three days."""
    task = {"id": task_id, "state": "succeed", "label": rng.choice((None, "x", "y")), "tags": rng.choice(TAGS)}
    raw.execute(
        "INSERT INTO tasks (id, state, label, tags, kling_id, created_at, updated_at, origin, message, slot_key,"
        " weight, priority, fair_share, attempts, poll_count, empty_result_count, redundant_push_count)"
        " VALUES (:id, :state, :label, :tags, :id, 0, 0, 'api', '', '', 0, 0, '', 0, 0, 0, 0)",
        task,
    )
    at = micros(START + DAY * rng.randrange(3))
    raw.execute(sql("save_cost"), (task_id, at, rng.choice(CHARGES), "{}"))


def change(raw: sqlite3.Connection, rng: Random, task_id: str) -> None:
    """Let something happen to a task or to its cost."""
    charges, named = rng.choice(CHARGES), {"task_id": task_id}
    corrected = {**named, "now": micros(START), "charges": charges}
    match rng.randrange(7):
        case 0:
            raw.execute(sql("save_cost"), (task_id, micros(START), charges, "{}")) if exists(raw, task_id) else None
        case 1:
            raw.execute(sql("correct_cost"), corrected)
        case 2:
            raw.execute(sql("correct_kept_cost"), corrected)
        case 3:
            raw.execute("UPDATE tasks SET endpoint = ?, tags = ? WHERE id = ?", (charges, rng.choice(TAGS), task_id))
        case 4:
            raw.execute(sql("keep_cost"), named)
            raw.execute(sql("delete_tasks"), {"ids": json.dumps([task_id])})
        case 5:
            raw.execute(sql("delete_tasks"), {"ids": json.dumps([task_id])})
        case 6:
            before = micros(START + DAY * rng.randrange(2))
            raw.execute(sql("delete_kept_costs"), {"before": before, "limit": 2})


def exists(raw: sqlite3.Connection, task_id: str) -> bool:
    return raw.execute("SELECT 1 FROM tasks WHERE id = ?", (task_id,)).fetchone() is not None


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_the_costs_after_any_changes_of_tasks(raw: sqlite3.Connection, seed: int) -> None:
    rng, most = Random(seed), 0
    for number in range(40):
        insert(raw, rng, f"tsk_{number}")
    for _ in range(60):
        change(raw, rng, f"tsk_{rng.randrange(40)}")
        counts = [tuple(row) for row in raw.execute(COUNTS)]
        assert counts == recount(raw)
        most = max(most, len(counts))
    assert most > 20


def test_a_migration_counts_existing_costs(tmp_path: Path) -> None:
    with closing(connect_writer(tmp_path / "receiver.db")) as raw:
        upgrade(raw, [each for each in known_migrations() if each.version < MIGRATION.version])
        for number in range(10):
            insert(raw, Random(number), f"tsk_{number}")
        raw.execute(sql("keep_cost"), {"task_id": "tsk_3"})
        raw.execute(sql("delete_tasks"), {"ids": '["tsk_3"]'})
        upgrade(raw, known_migrations())

        days = raw.execute("SELECT SUM(tasks) FROM cost_counts WHERE grouping = 'day'").fetchone()[0]
        assert days == 10
        assert [tuple(row) for row in raw.execute(COUNTS)] == recount(raw)


def expected(tasks: list[tuple[Task, Cost]], by: CostGrouping, tag: str | None) -> list[CostTotal]:
    """Add the costs of tasks by hand."""
    groups: dict[str | None, list[Cost]] = {}
    for task, cost in tasks:
        names = {
            CostGrouping.DAY: task.updated_at.date().isoformat(),
            CostGrouping.ENDPOINT: task.endpoint,
            CostGrouping.LABEL: task.label,
            CostGrouping.BATCH: task.batch,
            CostGrouping.TAG: task.tags.get(tag or ""),
        }
        groups.setdefault(names[by], []).append(cost)
    return [
        CostTotal(name=name, tasks=len(costs), charges=add_charges(cost.charges for cost in costs))
        for name, costs in sorted(groups.items(), key=lambda each: (each[0] is not None, each[0]))
    ]


async def test_sums_of_any_period_are_those_of_its_tasks(store: Store) -> None:
    rng, tasks = Random(1), []
    for number in range(60):
        cost = Cost(charges={"units": Decimal(rng.randrange(1, 4)) / 2}, raw="{}")
        task = a_task(
            id=f"tsk_{number}",
            kling_id=f"k{number}",
            external_task_id=None,
            state=TaskState.SUCCEED,
            due_at=None,
            updated_at=START + timedelta(hours=rng.randrange(100)),
            label=rng.choice((None, "x")),
            tags=rng.choice(({}, {"team": "a"}, {"team": "b"})),
            batch=rng.choice((None, "spring")),
        )
        await store.tasks.add(task, b"")
        await store.tasks.apply(ById(id=task.id), decide_always(Change(task=task, cost=cost)))
        tasks.append((task, cost))
    seen: Counter[CostGrouping] = Counter()
    for _ in range(60):
        by, hours = rng.choice(list(CostGrouping)), sorted((rng.randrange(120), rng.randrange(120)))
        since, until = (None if rng.randrange(5) == 0 else START + timedelta(hours=each) for each in hours)
        in_it = [
            each
            for each in tasks
            if (since is None or each[0].updated_at >= since) and (until is None or each[0].updated_at < until)
        ]
        tag = "team" if by is CostGrouping.TAG else None
        assert list(await store.costs.totals(by, tag=tag, since=since, until=until)) == expected(in_it, by, tag)
        seen[by] += len(in_it)
    assert min(seen[by] for by in CostGrouping) > 20
