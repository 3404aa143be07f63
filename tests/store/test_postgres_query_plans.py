"""The statements for PostgreSQL: the server accepts each of them, and none must read or sort a whole table."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from receiver.store.named_queries import Query
from receiver.store.postgres.database import Connection
from receiver.store.postgres.queries import bind, fetch, queries

ALTERNATIVES: dict[str, list[dict[str, object]]] = {
    "count_costs": [
        {"day": 1},
        {"tag": 1, "joined": 1},
        {"endpoint": 1, "joined": 1},
        {"label": 1, "joined": 1},
        {"batch": 1, "joined": 1},
    ],
    "deliveries_to_replay": [{"to_route": ""}, {"same_route": True}],
}
"""Of some optional lines, exactly one must be given."""

TABLES = "tasks|pushes|events|deliveries|attempts|intents|costs"
PAGES: dict[str, dict[str, Any]] = {
    "list_tasks": {"cursor": "x", "limit": 1},
    "list_events": {"task_id": "x", "limit": 1},
    "events_after": {"after": "x", "limit": 1},
    "old_push_bodies": {"before": 1, "limit": 1},
    "old_events": {"before": 1, "now": 1, "after": "x", "limit": 1},
    "old_tasks": {"before": 1, "now": 1, "after": "x", "limit": 1},
    "events_to_archive": {"now": 1, "exclude": [], "limit": 1},
    "nth_task": {"size": 1},
    "nth_event": {"size": 1},
    "nth_delivery": {"size": 1},
    "search_tasks": {"low": "x", "text": "x", "limit": 1},
    "search_events": {"low": "x", "limit": 1},
    "search_deliveries": {"low": "x", "limit": 1},
    "end_of_results_search": {"searched": 9},
}
HOT: dict[str, dict[str, Any]] = PAGES | {
    "lock_tasks": {"ids": [], "tokens": []},
    "has_live_token": {"token_hash": b"", "now": 1},
    "has_verified_event": {"task_id": "x"},
    "tasks_by_idempotency_key": {"keys": []},
    "due_tasks": {"state": "queued", "now": 1, "limit": 1},
    "tasks_due_after_push": {"states": [], "now": 1, "limit": 1},
    "make_tasks_due": {"states": [], "now": 1, "before": 2, "min_gap": 1},
    "next_task_due": {"states": [], "after": 1},
    "next_queued_tasks": {"now": 1, "limit": 1, "head_ids": []},
    "queued_creates": {},
    "assign_fair_shares": {"tag": "project"},
    "slots_in_use": {},
    "intents": {"ids": []},
    "pending_pushes": {"ids": []},
    "due_routes": {},
    "claim_deliveries": {"route": "r", "now": 1, "limit": 1, "claim": "c", "until": 2},
    "lock_claims": {"ids": []},
    "record_verdict": {name: [] for name in ("id", "claim", "status", "due_at", "finished_at", "attempts", "probes")},
    "record_attempts": {
        name: []
        for name in (
            *("id", "claim", "status", "due_at", "finished_at", "attempts", "probes"),
            *("started_at", "duration", "outcome", "code", "reason", "excerpt"),
        )
    },
    "release_delivery": {"due_at": [], "id": [], "claim": []},
    "set_push_outcome": {"outcome": [], "task_id": [], "id": []},
    "retry_route_now": {"route": "r", "now": 1},
    "bring_forward": {"route": "r", "now": 1, "archive_wait_until": 2, "limit": 9},
    "newest_id": {},
    "task_by_kling_id": {"ref": "x"},
    "task_by_external_id": {"ref": "x"},
    "pushes_of_task": {"task_id": "x"},
    "count_tasks": {},
    "batch_states": {"names": []},
    "list_deliveries": {"task_id": "x", "limit": 1},
    "attempts_of_delivery": {"delivery_id": "x"},
    "list_results": {"cursor": "x", "searched": 9, "limit": 1},
    "results_of_tasks": {"ids": []},
    "result_of_task": {"task_id": "x", "number": 0},
    "backlog": {},
    "old_intents": {"before": 1, "after": "x", "limit": 1},
    "next_archive_due": {"exclude": []},
    "make_archived_deliveries_due": {"event_id": [], "due_at": []},
    "make_all_archiving_due": {"now": 1},
    "hold_archiving_events": {},
    "hold_events_of_task": {"task_id": "x"},
    "hold_deliveries": {"events": []},
    "keep_tasks": {"ids": []},
    "deliveries_of_events": {"ids": []},
    "attempts_of_deliveries": {"ids": []},
    "recent_attempts": {"first_delivery": "x", "limit": 9, "since": 1},
    "count_unfinished": {"limit": 9},
    "count_dead": {"limit": 9},
    "complete_batches": {"limit": 9},
    "finished_batch_tasks": {"name": "x", "limit": 9},
    "ended_alerts": {"limit": 9},
    "count_rows_of_task": {"task_id": "x", "batch": "x"},
    "own_charges": {"kling_ids": []},
    "succeeded_charges": {"first": "x", "last": "y", "since": 1, "until": 2},
}


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def plan(connection: Connection, name: str, arguments: dict[str, Any]) -> str:
    statement, values = bind(name, arguments)
    for way in ("seqscan", "sort", "bitmapscan", "incremental_sort"):
        await connection.execute(f"SET enable_{way} = off")  # the tables are empty, so the planner would use them
    return "\n".join([row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values)])


def choices(query: Query) -> Iterator[dict[str, object]]:
    """Yield arguments without any option of a statement, with each of them, and with all of them."""
    options = set(re.findall(r"-- if (\w+)$", query.sql, re.MULTILINE))
    given = dict.fromkeys(re.findall(r"(?<![:\w]):([a-z]\w*)", query.sql))
    for needed in ALTERNATIVES.get(query.name, [{}]):
        free = options - {name for other in ALTERNATIVES.get(query.name, []) for name in other} - needed.keys()
        for some in [set(), *({option} for option in sorted(free)), free]:
            yield {**given, **dict.fromkeys(some, True), **needed}


async def test_the_server_accepts_every_statement_with_each_of_its_options(connection: Connection) -> None:
    await fetch(connection, "create_copying")
    for query in queries().values():
        if ":assignments" not in query.sql:
            for arguments in choices(query):
                await connection.prepare(bind(query.name, arguments)[0])


async def test_no_query_reads_a_whole_table(connection: Connection) -> None:
    plans = {name: await plan(connection, name, arguments) for name, arguments in HOT.items()}

    assert {name: found for name, found in plans.items() if re.search(rf"Seq Scan on ({TABLES})\b", found)} == {}


async def test_no_query_of_a_page_sorts(connection: Connection) -> None:
    plans = {name: await plan(connection, name, arguments) for name, arguments in PAGES.items()}

    assert {name: found for name, found in plans.items() if re.search(r"\bSort\b", found)} == {}
