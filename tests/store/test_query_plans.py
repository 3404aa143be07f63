"""The cost of the queries: no full scans, no sorts, few statements."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from harness.factories import a_delivery, an_event
from store.conftest import a_sqlite_store, add_deliveries, decide_always

from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.queries import queries, write_rows

HOT: dict[str, dict[str, Any]] = {
    "tasks_by_token": {},
    "has_live_token": {"token_hash": b"", "now": 1},
    "has_verified_event": {"task_id": ""},
    "tasks_by_id": {"ids": "[]"},
    "tasks_by_idempotency_key": {"keys": "[]"},
    "due_tasks": {"state": "queued", "now": 1, "limit": 1},
    "tasks_due_after_push": {"states": "[]", "now": 1, "limit": 1},
    "make_tasks_due": {"states": "[]", "now": 1, "before": 2, "min_gap": 1},
    "next_task_due": {"states": "[]", "after": 1},
    "next_queued_tasks": {"now": 1, "limit": 1, "head_ids": "[]"},
    "queued_creates": {},
    "assign_fair_shares": {"tag": "project"},
    "slots_in_use": {},
    "intents": {"ids": "[]"},
    "pending_pushes": {"ids": "[]"},
    "due_routes": {},
    "due_deliveries": {"route": "r", "now": 1, "limit": 1},
    "claim_deliveries": {},
    "delivery_claims": {"ids": "[]"},
    "task_by_kling_id": {"ref": "x"},
    "task_by_external_id": {"ref": "x"},
    "pushes_of_task": {"task_id": "x"},
    "count_tasks": {},
    "batch_states": {"names": "[]"},
    "list_tasks": {"cursor": "x", "limit": 1},
    "list_events": {"task_id": "x", "limit": 1},
    "events_after": {"after": "x", "limit": 1},
    "list_deliveries": {"task_id": "x", "limit": 1},
    "attempts_of_delivery": {"delivery_id": "x"},
    "list_results": {"cursor": "x", "searched": 9, "limit": 1},
    "end_of_results_search": {"searched": 9},
    "results_of_tasks": {"ids": "[]"},
    "result_of_task": {"task_id": "x", "number": 0},
    "backlog": {},
    "old_push_bodies": {"before": 1, "limit": 1},
    "old_intents": {"before": 1, "after": "x", "limit": 1},
    "old_events": {"before": 1, "now": 1, "after": "x", "limit": 1},
    "old_tasks": {"before": 1, "now": 1, "after": "x", "limit": 1},
    "events_to_archive": {"now": 1, "exclude": "[]", "limit": 1},
    "next_archive_due": {"exclude": "[]"},
    "make_all_archiving_deliveries_due": {"now": 1},
}


@pytest.mark.parametrize("name", HOT)
def test_no_query_reads_a_whole_table(raw: sqlite3.Connection, name: str) -> None:
    query = queries()[name]
    sql = query.with_list(1) if ":many" in query.sql else query.with_optional(HOT[name])
    arguments: Any = (b"",) * sql.count("?") if ":many" in query.sql else HOT[name]

    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]

    whole = [step for step in plan if step.startswith("SCAN") and "INDEX" not in step]
    assert [step for step in whole if step.split()[1] in {"tasks", "pushes", "events", "deliveries", "attempts"}] == []


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_rows_of_any_number_are_written_once_and_in_order(raw: sqlite3.Connection, count: int) -> None:
    rows = [(number, "somebody", "noted", "a subject", "") for number in range(count)]

    write_rows(raw, "insert_action", rows)

    assert [tuple(row)[1:] for row in raw.execute("SELECT * FROM actions ORDER BY seq")] == rows


@pytest.mark.parametrize(
    "name",
    [
        "due_tasks",
        "tasks_due_after_push",
        "due_deliveries",
        "list_tasks",
        "list_events",
        "events_after",
        "old_push_bodies",
        "old_events",
        "old_tasks",
        "events_to_archive",
    ],
)
def test_no_query_of_a_page_sorts(raw: sqlite3.Connection, name: str) -> None:
    sql = queries()[name].with_optional(HOT[name])

    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", HOT[name])]

    assert [step for step in plan if "TEMP B-TREE" in step] == []


def test_a_large_backlog_does_not_slow_due_routes(raw: sqlite3.Connection) -> None:
    raw.execute("INSERT INTO events VALUES (1, 'evt_1', NULL, NULL, 'alert.x', x'', x'', 'none', 0, '[]', NULL, NULL)")
    raw.execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50000) "
        "INSERT INTO deliveries "
        "SELECT 'dlv_' || n, 'evt_1', 'r' || (n % 5), 'pending', 0, n, 0, 0, 0, NULL, 'dlv_0', NULL FROM n"
    )
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    raw.set_progress_handler(count, 10)
    rows = raw.execute(queries()["due_routes"].sql).fetchall()

    assert [(row["route"], row["due_at"]) for row in rows] == [("r0", 5), ("r1", 1), ("r2", 2), ("r3", 3), ("r4", 4)]
    assert steps < 100


def test_a_list_of_alerts_reads_only_alerts(raw: sqlite3.Connection) -> None:
    arguments = {"types": '["alert.disk_full"]', "only_alerts": "yes", "limit": 1}
    sql = queries()["list_events"].with_optional(arguments)

    plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", arguments)]

    assert plan[0] == "SCAN events USING INDEX events_alerts"
    assert [step for step in plan if "TEMP B-TREE" in step] == []


async def test_a_list_of_events_and_alerts_has_both(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await add_deliveries(store, a_delivery("dlv_1", event_id="evt_1"))
        alert = an_event("evt_2", type="alert.disk_full", task_id=None)
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(events=[alert])))

        async def listed(*types: str) -> list[str]:
            return [event.id for event in (await store.catalog.events(types=types)).items]

        assert await listed("alert.disk_full", "task.processing") == ["evt_2", "evt_1"]
        assert await listed("alert.disk_full") == ["evt_2"]
        assert await listed("alert.account") == []
