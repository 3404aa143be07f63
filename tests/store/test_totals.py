"""Totals that survive a restart and the deletion of old data, and the snapshot for monitoring."""

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import decide_always

from receiver.domain.costs import Cost
from receiver.domain.model import Attempt, DeliveryStatus, TaskState, Verdict
from receiver.store.interfaces import ById, Change, Total
from receiver.store.sqlite import catalog
from receiver.store.sqlite import totals as totals_module
from receiver.store.sqlite.migrate import known_migrations, upgrade
from receiver.store.sqlite.store import SqliteStore


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "receiver.db")
    yield store
    await store.aclose()


async def end_delivery(store: SqliteStore, number: int, status: DeliveryStatus, *, route: str = "publish") -> None:
    """Store a delivery, claim it, and store its verdict."""
    delivery_id, event = f"dlv_{number}", an_event(f"evt_{number}", type="task.processing")
    await store.tasks.add_events([event], [a_delivery(delivery_id, event_id=event.id, route=route)])
    await store.deliveries.claim(route, now=at(10), until=at(99), limit=1, claim="c", only=delivery_id)
    verdict = Verdict(status=status, due_at=at(10), finished_at=at(10))
    attempt = Attempt(delivery_id=delivery_id, number=1, started_at=at(10), duration=timedelta(), outcome="refused")
    assert await store.deliveries.record_attempt(attempt, verdict, claim="c")


async def charge(store: SqliteStore, number: int, **amounts: str) -> None:
    """Store the cost of a task that ends, or a later report of it."""
    task = a_task(id=f"tsk_{number}", kling_id=f"k{number}", external_task_id=None)
    if await store.catalog.task(task.id) is None:
        await store.tasks.add(task, b"")
    cost = Cost(charges={unit: Decimal(amount) for unit, amount in amounts.items()}, raw="{}")
    await store.tasks.apply(ById(id=task.id), decide_always(Change(task=task, cost=cost)))


async def total(store: SqliteStore, name: Total) -> Mapping[str, float]:
    return (await store.totals.read())[name]


async def test_a_dead_delivery_is_counted_by_its_route_and_a_delivered_one_is_not(opened: SqliteStore) -> None:
    await opened.tasks.add(a_task(), b"")
    await end_delivery(opened, 1, DeliveryStatus.DEAD)
    await end_delivery(opened, 2, DeliveryStatus.DELIVERED)
    await end_delivery(opened, 3, DeliveryStatus.DEAD)
    await end_delivery(opened, 4, DeliveryStatus.DEAD, route="reply:a.example.com")
    await end_delivery(opened, 5, DeliveryStatus.DEAD, route="reply:b.example.com")

    assert await total(opened, Total.DELIVERIES_DEAD) == {"publish": 2, "reply": 2}


async def test_spent_amounts_are_summed_by_unit(opened: SqliteStore) -> None:
    await charge(opened, 1, units="2", usd="0.25")
    await charge(opened, 2, units="1.5")

    assert await total(opened, Total.SPENT) == {"units": 3.5, "usd": 0.25}


@pytest.mark.parametrize(("first", "second", "sum_"), [("2", "3", 3), ("3", "2", 3), ("-1", "-2", 0), ("1", "1", 1)])
async def test_a_later_report_adds_only_the_difference_and_a_total_never_falls(
    opened: SqliteStore, first: str, second: str, sum_: float
) -> None:
    await charge(opened, 1, units=first)
    await charge(opened, 1, units=second)

    assert await total(opened, Total.SPENT) == {"units": sum_}


async def test_totals_survive_a_restart_and_the_deletion_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "receiver.db"
    store = await SqliteStore.open(path)
    await charge(store, 1, units="2")
    await end_delivery(store, 1, DeliveryStatus.DEAD)
    await store.aclose()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("DELETE FROM events")
        raw.execute("DELETE FROM tasks")

    store = await SqliteStore.open(path)
    seen = await store.totals.read()
    await store.aclose()

    assert seen == {Total.SPENT: {"units": 2}, Total.DELIVERIES_DEAD: {"publish": 1}, Total.CALLBACKS_MISSED: {}}


async def test_an_upgrade_counts_what_an_older_version_has_stored(tmp_path: Path) -> None:
    path = tmp_path / "receiver.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.row_factory = sqlite3.Row
        upgrade(raw, [each for each in known_migrations() if each.version < 4])
        raw.execute(
            "INSERT INTO events (id, type, envelope, body, verified, created_at, decisions)"
            " VALUES ('evt_1', 'alert.x', x'7b7d', x'', 'none', 0, '[]')"
        )
        for number, (route, status) in enumerate([("a", "dead"), ("reply:x", "dead"), ("b", "delivered")]):
            raw.execute(
                "INSERT INTO deliveries (id, event_id, route, status, created_at, due_at, attempts, probes,"
                " unfinished_claims, finished_at) VALUES (?, 'evt_1', ?, ?, 0, 0, 1, 0, 0, 1)",
                (f"dlv_{number}", route, status),
            )

    store = await SqliteStore.open(path)
    seen = await total(store, Total.DELIVERIES_DEAD)
    await store.aclose()

    assert seen == {"a": 1, "reply": 1}


async def test_a_snapshot_describes_the_store(opened: SqliteStore) -> None:
    await opened.tasks.add(a_task(state=TaskState.PROCESSING, weight=2), b"")
    await opened.tasks.add_events([an_event("evt_1", type="task.processing")], [a_delivery("dlv_1", event_id="evt_1")])

    seen = await opened.totals.snapshot()

    assert seen.tasks == {"processing": 1}
    assert seen.slots_in_use == {"image": 2}
    assert [(each.route, each.pending) for each in seen.backlog or ()] == [("publish", 1)]
    assert seen.size is not None
    assert seen.disk_free is not None
    assert seen.size > 0
    assert seen.disk_free > 0


async def test_a_query_that_takes_too_long_is_missing_and_stops_no_other(
    opened: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    monkeypatch.setattr(totals_module, "_MAX_QUERY_SECONDS", 0.05)
    monkeypatch.setattr(catalog, "backlog", lambda connection: connection.execute(endless).fetchone())

    seen = await opened.totals.snapshot()

    assert seen.backlog is None
    assert seen.tasks == {}
    assert await opened.catalog.counts() == {}
