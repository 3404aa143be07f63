"""The store of the benchmark with many events is one that the receiver could have written."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.grown_store import age, fill
from harness.factories import a_delivery, a_push, a_task, an_event, at
from store.conftest import decide_always

from receiver.domain.model import Attempt, DeliveryStatus, PushOutcome, TaskState, Verdict
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.store import SqliteStore


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A store with one task, whose event was delivered."""
    path = tmp_path / "receiver.db"
    store = await SqliteStore.open(path)
    try:
        await store.tasks.add(a_task(state=TaskState.SUCCEED, due_at=None, token_hash=b"t" * 32), b"")
        push = a_push(outcome=PushOutcome.APPLIED)
        event = an_event(push_id=push.id, body=push.body)
        change = Change(push=push, events=[event], deliveries=[a_delivery()])
        await store.tasks.apply(ById(id="tsk_1"), decide_always(change))
        await store.deliveries.claim("publish", now=at(60), until=at(90), limit=1, claim="c")
        attempt = Attempt(delivery_id="dlv_1", number=1, started_at=at(1), duration=at(2) - at(1), outcome="accepted")
        delivered = Verdict(status=DeliveryStatus.DELIVERED, due_at=at(2), finished_at=at(2))
        await store.deliveries.record_attempt(attempt, delivered, claim="c")
    finally:
        await store.aclose()
    return path


def test_a_filled_store_is_consistent(database: Path) -> None:
    fill(database, events=50, pending=20)
    age(database)

    with closing(sqlite3.connect(database)) as raw:
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        statuses = raw.execute("SELECT status, COUNT(*) FROM deliveries GROUP BY status ORDER BY status").fetchall()
        assert statuses == [("delivered", 31), ("pending", 20)]
        assert raw.execute("SELECT COUNT(*) FROM attempts").fetchone() == (31,)
        assert raw.execute("SELECT COUNT(*) FROM events WHERE created_at = 0").fetchone() == (50,)
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute("UPDATE deliveries SET status = 'dead' WHERE status = 'delivered'")
