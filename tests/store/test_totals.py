"""Totals that survive a restart and the deletion of old data, and the snapshot for monitoring."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import Opener, Store, a_postgres_store, a_sqlite_store, decide_always

from receiver.domain.audit import AuditEntry
from receiver.domain.costs import Cost
from receiver.domain.model import Attempt, DeliveryStatus, TaskState, Verdict
from receiver.store.interfaces import ById, Change, Total
from receiver.store.postgres import catalog as postgres_catalog
from receiver.store.postgres import totals as postgres_totals
from receiver.store.sqlite import catalog as sqlite_catalog
from receiver.store.sqlite import totals as sqlite_totals
from receiver.store.sqlite.migrate import known_migrations, upgrade
from receiver.store.sqlite.store import SqliteStore


async def end_delivery(store: Store, number: int, status: DeliveryStatus, *, route: str = "publish") -> None:
    """Store a delivery, claim it, and store its verdict."""
    delivery_id, event = f"dlv_{number}", an_event(f"evt_{number}", type="task.processing")
    await store.tasks.add_events([event], [a_delivery(delivery_id, event_id=event.id, route=route)])
    await store.deliveries.claim(route, now=at(10), until=at(99), limit=1, claim="c", only=delivery_id)
    verdict = Verdict(status=status, due_at=at(10), finished_at=at(10))
    attempt = Attempt(delivery_id=delivery_id, number=1, started_at=at(10), duration=timedelta(), outcome="refused")
    assert await store.deliveries.record_attempt(attempt, verdict, claim="c")


async def charge(store: Store, number: int, **amounts: str) -> None:
    """Store the cost of a task that ends, or a later report of it."""
    task = a_task(id=f"tsk_{number}", kling_id=f"k{number}", external_task_id=None)
    if await store.catalog.task(task.id) is None:
        await store.tasks.add(task, b"")
    cost = Cost(charges={unit: Decimal(amount) for unit, amount in amounts.items()}, raw="{}")
    await store.tasks.apply(ById(id=task.id), decide_always(Change(task=task, cost=cost)))


async def total(store: Store, name: Total) -> Mapping[str, float]:
    return (await store.totals.read())[name]


async def test_a_dead_delivery_is_counted_by_its_route_and_a_delivered_one_is_not(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await end_delivery(store, 1, DeliveryStatus.DEAD)
    await end_delivery(store, 2, DeliveryStatus.DELIVERED)
    await end_delivery(store, 3, DeliveryStatus.DEAD)
    await end_delivery(store, 4, DeliveryStatus.DEAD, route="reply:a.example.com")
    await end_delivery(store, 5, DeliveryStatus.DEAD, route="reply:b.example.com")

    assert await total(store, Total.DELIVERIES_DEAD) == {"publish": 2, "reply": 2}


async def test_spent_amounts_are_summed_by_unit(store: Store) -> None:
    await charge(store, 1, units="2", usd="0.25")
    await charge(store, 2, units="1.5")

    assert await total(store, Total.SPENT) == {"units": 3.5, "usd": 0.25}


@pytest.mark.parametrize(("first", "second", "sum_"), [("2", "3", 3), ("3", "2", 3), ("-1", "-2", 0), ("1", "1", 1)])
async def test_a_later_report_adds_only_the_difference_and_a_total_never_falls(
    store: Store, first: str, second: str, sum_: float
) -> None:
    await charge(store, 1, units=first)
    await charge(store, 1, units=second)

    assert await total(store, Total.SPENT) == {"units": sum_}


async def test_totals_survive_a_restart_and_the_deletion_of_their_rows(opener: Opener) -> None:
    async with opener() as store:
        await charge(store, 1, units="2")
        await end_delivery(store, 1, DeliveryStatus.DEAD)
        action = AuditEntry(at=at(20), actor="anna", verb="task.deleted", subject="tsk_1")
        deleted = await store.deletions.delete("tsk_1", check=lambda _: None, places=lambda _: (), action=action)
        assert deleted is not None
        assert (deleted.events, deleted.deliveries) == (1, 1)

    async with opener() as store:
        seen = await store.totals.read()

    assert seen == {Total.SPENT: {"units": 2}, Total.DELIVERIES_DEAD: {"publish": 1}, Total.CALLBACKS_MISSED: {}}


async def test_a_total_without_a_label_is_only_raised(store: Store) -> None:
    for amount in (3, 2, 5):
        await store.totals.raise_to(Total.CALLBACKS_MISSED, amount)

    assert await total(store, Total.CALLBACKS_MISSED) == {"": 5}


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


async def test_a_snapshot_describes_the_store(store: Store) -> None:
    await store.tasks.add(a_task(state=TaskState.PROCESSING, weight=2), b"")
    await store.tasks.add_events([an_event("evt_1", type="task.processing")], [a_delivery("dlv_1", event_id="evt_1")])

    seen = await store.totals.snapshot()

    assert seen.tasks == {"processing": 1}
    assert seen.slots_in_use == {"image": 2}
    assert [(each.route, each.pending) for each in seen.backlog or ()] == [("publish", 1)]
    assert seen.size is not None
    assert seen.size > 0


async def test_a_snapshot_of_a_file_has_the_free_space_of_its_disk(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        seen = await store.totals.snapshot()

    assert seen.disk_free is not None
    assert seen.disk_free > 0


async def test_a_query_over_its_time_limit_is_left_out_and_stops_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    monkeypatch.setattr(sqlite_totals, "_MAX_QUERY_SECONDS", 0.05)
    monkeypatch.setattr(sqlite_catalog, "backlog", lambda connection: connection.execute(endless).fetchone())

    async with a_sqlite_store(path) as store:
        await assert_only_the_backlog_is_missing(store)


async def test_a_query_over_its_time_limit_is_left_out_on_postgresql(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_totals, "_MAX_QUERY_SECONDS", 0.05)
    monkeypatch.setattr(postgres_catalog, "backlog", lambda connection: connection.fetch("SELECT pg_sleep(60)"))

    async with a_postgres_store(postgres_url) as store:
        await assert_only_the_backlog_is_missing(store)


async def assert_only_the_backlog_is_missing(store: Store) -> None:
    seen = await store.totals.snapshot()

    assert seen.backlog is None
    assert seen.tasks == {}
    assert await store.catalog.counts() == {}
