"""A task is deleted with everything about it or not at all; its costs stay in the sums."""

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness.clock import START
from harness.factories import a_delivery, a_push, a_task, an_event, at
from store.conftest import Opener, Store, a_sqlite_store
from store.database_files import run_code

from receiver.domain.audit import AuditEntry
from receiver.domain.bill import UnitCorrection
from receiver.domain.costs import Cost, CostGrouping
from receiver.domain.errors import Conflict
from receiver.domain.model import ArchiveState, Asset, Attempt, DeliveryStatus, Event, TaskState, Verdict
from receiver.store.interfaces import ArchiveUpdate, ById, Change, StoredTask

TABLES = ("tasks", "intents", "request_digests", "costs", "pushes", "events", "deliveries", "attempts", "assets")
ACTION = AuditEntry(at=START, actor="anna", verb="task.deleted", subject="tsk_1", reason="a customer's wish")
KILL_AT_EACH = """
import os, pathlib, shutil, sys
from datetime import UTC, datetime
from receiver.domain.audit import AuditEntry
from receiver.store.calls import DeleteCall
from receiver.store.sqlite import deletions
from receiver.store.sqlite.database import connect_writer

def delete(victim, fatal):
    connection, count = connect_writer(victim), 0

    def trace(_):
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), 9)

    connection.set_trace_callback(trace)
    call = DeleteCall(
        task_id="tsk_1", check=lambda _: None, places=lambda stored: stored.files,
        action=AuditEntry(at=datetime.now(UTC), actor="anna", verb="task.deleted", subject="tsk_1"),
    )
    connection.execute("BEGIN IMMEDIATE")
    deletions._DELETE.write(connection, [call])
    connection.execute("COMMIT")
    os._exit(0)

path, number, code = pathlib.Path(sys.argv[1]), 0, -9
while code == -9:
    number += 1
    victim = path.with_name(f"{number}.db")
    shutil.copy(path, victim)
    child = os.fork()
    if child == 0:
        delete(victim, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code)
"""
"""Kills a process at the first statement of a deletion, the next one at the second, until one completes.

Each deletes in a copy of the store that is named after the statement. They are forks, because only they are killed.
"""


async def fill(store: Store) -> None:
    """Store a task with one of everything, and another one beside it."""
    for number, charge in ((1, "1.25"), (2, "2.5")):
        name = f"tsk_{number}"
        task = a_task(
            id=name,
            kling_id=f"k{number}",
            external_task_id=name,
            state=TaskState.SUCCEED,
            due_at=None,
            label="summer",
            tags={"team": "a"},
            idempotency_key=f"key-{number}",
            token_hash=bytes([number]) * 32,
        )
        await store.tasks.add(task, b'{"prompt":"x"}', digest=b"d" * 32)
        event = an_event(f"evt_{number}", task_id=name, archiving=ArchiveState.PENDING)
        cost = Cost(charges={"units": Decimal(charge)}, raw="{}")
        push = a_push(f"psh_{number}", task_id=name)
        delivery = a_delivery(f"dlv_{number}", event_id=event.id)
        change = Change(task=task, push=push, events=(event,), deliveries=(delivery,), cost=cost)
        await store.tasks.apply(ById(id=name), lambda *_, change=change: change)
        await archive(store, event)
        await attempt(store, delivery.id)


async def archive(store: Store, event: Event) -> None:
    asset = Asset(
        number=0,
        url="https://x.example/0.png",
        sha256=b"s" * 32,
        size=1,
        content_type="image/png",
        path=f"/srv/{event.id}/0.png",
        storage=f"s3://bucket/{event.id}/0.png",
    )
    assert await store.archive.save(ArchiveUpdate(event_id=event.id, envelope=event.envelope, assets=[asset]))


async def attempt(store: Store, delivery_id: str) -> None:
    now = at(4000)
    await store.deliveries.claim("publish", now=now, until=at(5000), limit=1, claim="c", only=delivery_id)
    made = Attempt(delivery_id=delivery_id, number=1, started_at=now, duration=at(1) - at(0), outcome="failed")
    verdict = Verdict(status=DeliveryStatus.PENDING, due_at=at(6000))
    assert await store.deliveries.record_attempt(made, verdict, claim="c")


def counts(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in TABLES}  # noqa: S608 -- our own names


async def row_counts(store: Store) -> dict[str, int]:
    """Count what is stored about the two tasks, through the store itself."""
    stats, ids = await store.stats(), ("tsk_1", "tsk_2")
    found = {name: sum(count for key, count in stats.items() if key.partition(".")[0] == name) for name in TABLES}
    found["intents"] = sum([await store.tasks.intent(id_) != b"" for id_ in ids])
    found["request_digests"] = sum([await store.tasks.request_digest(id_) is not None for id_ in ids])
    found["costs"] = sum([await store.costs.find(id_) is not None for id_ in ids])
    return found


def deletes_anything(_: StoredTask) -> None:
    return


async def delete(store: Store, task_id: str = "tsk_1", **changes: Any) -> StoredTask | None:
    given: dict[str, Any] = {"check": deletes_anything, "places": lambda stored: stored.files, "action": ACTION}
    return await store.deletions.delete(task_id, **given | changes)


async def test_nothing_but_the_cost_and_the_audit_entry_of_a_task_is_left(store: Store) -> None:
    await fill(store)
    assert set((await row_counts(store)).values()) == {2}

    stored = await delete(store)

    assert stored is not None
    assert (stored.pushes, stored.events, stored.deliveries, stored.pending_deliveries) == (1, 1, 1, 1)
    assert (stored.files, stored.objects) == (["/srv/evt_1/0.png"], ["s3://bucket/evt_1/0.png"])
    assert await row_counts(store) == dict.fromkeys(TABLES, 1)
    assert (await store.catalog.actions(subjects=["tsk_1"]))[0] == ACTION
    assert await store.catalog.task("tsk_1") is None
    assert await store.catalog.task("tsk_2") is not None
    assert await delete(store) is None


@pytest.mark.parametrize("by", list(CostGrouping))
async def test_the_sums_of_costs_stay_as_they_were(store: Store, by: CostGrouping) -> None:
    await fill(store)
    tag = "team" if by is CostGrouping.TAG else None
    before = await store.costs.totals(by, tag=tag)

    await delete(store)

    assert await store.costs.totals(by, tag=tag) == before
    assert [(each.tasks, each.charges) for each in before] == [(2, {"units": Decimal("3.75")})]


async def test_kling_s_ledger_still_finds_the_task_and_may_correct_its_cost(store: Store) -> None:
    await fill(store)
    before = await store.costs.own_charges(["k1", "k2"])

    await delete(store)
    after = await store.costs.own_charges(["k1", "k2"])
    await store.costs.correct([UnitCorrection(task_id="tsk_1", charges={"units": Decimal(3)})], now=START)

    assert after == before
    assert (await store.costs.own_charges(["k1"]))["k1"].charges == {"units": Decimal(3)}


async def test_a_task_without_a_cost_changes_no_sum(store: Store) -> None:
    await store.tasks.add(a_task(state=TaskState.FAILED, due_at=None, kling_id="k9"), b"{}")

    await delete(store)

    assert await store.costs.totals(CostGrouping.ENDPOINT) == []
    assert (await store.costs.own_charges(["k9"]))["k9"].charges is None


async def test_a_task_that_must_not_be_deleted_stays_whole(store: Store) -> None:
    def refuse(_: StoredTask) -> None:
        raise Conflict("not now")

    await fill(store)

    with pytest.raises(Conflict, match="not now"):
        await delete(store, check=refuse)

    assert set((await row_counts(store)).values()) == {2}
    assert await store.catalog.actions() == []


async def test_the_files_to_remove_are_remembered_until_they_are_removed(opener: Opener) -> None:
    async with opener() as store:
        await fill(store)
        await delete(store)
    async with opener() as store:
        assert await store.deletions.removals() == {"/srv/evt_1/0.png": "tsk_1"}

        await store.deletions.removed(["/srv/evt_1/0.png"])

        assert await store.deletions.removals() == {}


async def test_an_attempt_in_flight_is_not_recorded_for_a_deleted_delivery(store: Store) -> None:
    await fill(store)
    await store.deliveries.claim("publish", now=at(7000), until=at(8000), limit=1, claim="c2", only="dlv_1")
    await delete(store)

    made = Attempt(delivery_id="dlv_1", number=2, started_at=at(7000), duration=at(1) - at(0), outcome="accepted")
    verdict = Verdict(status=DeliveryStatus.DELIVERED, due_at=at(7001), finished_at=at(7001))

    assert not await store.deliveries.record_attempt(made, verdict, claim="c2")


async def test_a_kill_at_any_statement_leaves_the_task_whole_or_deleted(path: Path) -> None:
    async with a_sqlite_store(path) as store:
        await fill(store)
    whole, deleted = counts(path), dict.fromkeys(TABLES, 1)

    assert run_code(KILL_AT_EACH, path) == 0

    victims = sorted(path.parent.glob("[0-9]*.db"), key=lambda victim: int(victim.stem))
    for victim in victims:
        is_deleted = victim == victims[-1]
        left = counts(victim)
        with closing(sqlite3.connect(victim)) as connection:
            planned = connection.execute("SELECT COUNT(*) FROM removals").fetchone()[0]
        assert left == (deleted if is_deleted else whole), victim.stem
        assert planned == (1 if is_deleted else 0), victim.stem
    assert len(victims) > 8
