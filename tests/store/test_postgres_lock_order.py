"""The order in which writes lock rows on PostgreSQL: tasks, events, deliveries, each by id, then the order of events.

Another transaction holds a row or the order of events. While a write waits for it, everything that comes before must be
locked, and nothing that comes after. What a write skips, it does not wait for.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from decimal import Decimal

import asyncpg
import msgspec
import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.waiting import wait_until
from store.competing_writes import DEAD, NOTE, an_alert, touch
from store.conftest import a_postgres_store, decide_always
from store.test_archive import an_archive_update
from store.test_costs import a_cost
from store.test_deliveries import an_attempt
from store.test_replays import a_replay

from receiver.domain.bill import UnitCorrection
from receiver.domain.console_sessions import ConsoleSession, Role, Visitor
from receiver.domain.daily_report import LastReport
from receiver.domain.model import ArchiveState, Event, PushOutcome, Task, TaskState
from receiver.domain.replays import ReplayStep
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import ById, Change, RetentionTarget
from receiver.store.postgres.database import Connection
from receiver.store.postgres.store import PostgresStore

EVENTS, SESSIONS, RETENTION, DURATIONS = [
    f"SELECT pg_advisory_xact_lock(hashtext('kling-receiver {name}'))"
    for name in ("events", "sessions", "retention", "durations")
]
TASK_1, TASK_2, OLD_TASK = [f"tasks WHERE id = 'tsk_{name}'" for name in ("1", "2", "old")]
EVENT_1, EVENT_2 = [f"events WHERE id = 'evt_{number}'" for number in (1, 2)]
DELIVERY_1, DELIVERY_2, DELIVERY_3 = [f"deliveries WHERE id = 'dlv_{number}'" for number in (1, 2, 3)]
COUNTS = "cost_counts WHERE grouping = 'day'"
SESSION = ConsoleSession(visitor=Visitor(role=Role.ADMIN, name="anna"), expires_at=at(100))


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store with two tasks in archiving. Their deliveries and times are not in the order of ids."""
    async with a_postgres_store(postgres_url) as store:
        await _add_task(store, "2", "dlv_3", "dlv_4", created=1)
        await _add_task(store, "1", "dlv_2", "dlv_1", created=2)
        await store.tasks.add(_ended("tsk_old"), b"{}")
        push = a_push("psh_old", task_id="tsk_old", outcome=PushOutcome.DUPLICATE)
        change = Change(push=push, cost=a_cost(units="1"))
        await store.tasks.apply(ById(id="tsk_old"), decide_always(change))
        for subject in ("tsk_none", "tsk_other"):
            await store.tasks.add_events([an_alert(f"evt_{subject}", subject, name="task_contradicted")], [])
        await store.replays.add(a_replay(), action=NOTE)
        await store.sessions.start(b"1" * 32, SESSION, most=9)
        yield store


async def _add_task(store: PostgresStore, number: str, *deliveries: str, created: int) -> None:
    task = _ended(f"tsk_{number}")
    made = [
        a_delivery(id_, event_id=f"evt_{number}", route=route, due_at=at(50))
        for id_, route in zip(deliveries, ("one", "two"), strict=True)
    ]
    change = Change(events=[_event(number, created)], deliveries=made, cost=a_cost(units="1"))
    await store.tasks.add(task, b"{}")
    await store.tasks.apply(ById(id=task.id), decide_always(change))


def _ended(id_: str) -> Task:
    return a_task(id=id_, kling_id=id_, external_task_id=id_, state=TaskState.SUCCEED, due_at=None)


def _event(number: str, created: int = 1) -> Event:
    id_, task_id = f"evt_{number}", f"tsk_{number}"
    return an_event(id_, task_id=task_id, archiving=ArchiveState.PENDING, created_at=at(created))


@pytest.fixture
async def raw(postgres_url: str) -> AsyncIterator[Connection]:
    """A connection that looks at locks."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Connection]:
    """A connection whose transaction is in the way."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def is_locked(raw: Connection, row: str) -> bool:
    try:
        assert await raw.fetch(f"SELECT FROM {row} FOR UPDATE NOWAIT"), f"there is no row in {row}"
    except asyncpg.LockNotAvailableError:
        return True
    return False


async def is_waiting(raw: Connection) -> bool:
    waiting = "wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await raw.fetchval(f"SELECT COUNT(*) FROM pg_stat_activity WHERE {waiting}"))  # noqa: S608 -- a constant


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A write, what is in its way, and what it has locked when it waits for that, and what not."""

    write: Callable[[PostgresStore], Awaitable[object]]
    held: str
    locked: Sequence[str] = ()
    free: Sequence[str] = ()
    first: str = ""


def _delete(node: PostgresStore) -> Awaitable[object]:
    return node.deletions.delete("tsk_1", check=lambda _: None, places=lambda _: [], action=NOTE)


def _sweep(target: RetentionTarget) -> Callable[[PostgresStore], Awaitable[object]]:
    return lambda node: node.retention.sweep(target, before=at(10**6), now=at(10**6))


def _archive(node: PostgresStore) -> Awaitable[object]:
    alert = RoutedEvent(event=an_alert("evt_x", "evt_1", name="asset_lost", task_id="tsk_1"), deliveries=[])
    return node.archive.save(an_archive_update(_event("1"), deliver_at=at(5), alerts=[alert]))


def _correct(node: PostgresStore) -> Awaitable[object]:
    charges = {"units": Decimal(7)}
    return node.costs.correct([UnitCorrection(task_id=id_, charges=charges) for id_ in ("tsk_2", "tsk_1")], now=at(9))


def _relabel(node: PostgresStore) -> Awaitable[object]:
    return node.tasks.apply(ById(id="tsk_1"), touch(Change(), label="new"))


def _report(node: PostgresStore) -> Awaitable[object]:
    return node.reports.add(LastReport(day="2026-01-01", at=at(9), callbacks_missed=0), None)


def _trace_both(node: PostgresStore) -> Awaitable[object]:
    return asyncio.gather(*(node.traces.save(id_, f"00-{0:032}-{0:016}-01") for id_ in ("tsk_2", "tsk_1")))


def _replay(node: PostgresStore) -> Awaitable[object]:
    deliveries = [a_delivery(f"dlv_r{id_}", event_id=id_, replay_of="dlv_0") for id_ in ("evt_2", "evt_1")]
    return node.replays.advance(ReplayStep(replay=a_replay(), deliveries=deliveries, cursor="evt_2"))


def _claim_and_record(node: PostgresStore) -> Awaitable[object]:
    return asyncio.gather(
        node.deliveries.claim("one", now=at(99), until=at(200), limit=9, claim="yours"),
        node.deliveries.record_attempt(an_attempt("dlv_2", 1), DEAD, claim="mine"),
    )


def _start_session(node: PostgresStore) -> Awaitable[object]:
    return node.sessions.start(b"2" * 32, SESSION, most=1)


CASES = {
    "files": Case(write=_archive, held=DELIVERY_2, locked=[TASK_1, EVENT_1, DELIVERY_1]),
    "files with an alert": Case(write=_archive, held=EVENT_1, locked=[TASK_1]),
    "all archiving is due": Case(
        write=lambda node: node.archive.make_all_due(now=at(0)), held=EVENT_2, locked=[EVENT_1]
    ),
    "the end of archiving": Case(
        write=lambda node: node.archive.abandon_all(now=at(0)),
        held=EVENT_2,
        locked=[EVENT_1],
        free=[DELIVERY_1, DELIVERY_2, DELIVERY_3],
    ),
    "deliveries after the end of archiving": Case(
        write=lambda node: node.archive.abandon_all(now=at(0)),
        held=DELIVERY_3,
        locked=[EVENT_2, DELIVERY_1, DELIVERY_2],
    ),
    "a deletion": Case(write=_delete, held=DELIVERY_2, locked=[TASK_1, EVENT_1, DELIVERY_1]),
    "a deletion with a cost": Case(write=_delete, held=EVENTS, locked=[TASK_1, EVENT_1, DELIVERY_2], free=[COUNTS]),
    "old events": Case(
        write=_sweep(RetentionTarget.EVENTS),
        held=DELIVERY_2,
        locked=[EVENT_1, DELIVERY_1],
        first="UPDATE events SET archiving = NULL, archive_at = NULL;"
        "UPDATE deliveries SET status = 'delivered', finished_at = 1",
    ),
    "old tasks": Case(write=_sweep(RetentionTarget.TASKS), held=EVENTS, locked=[OLD_TASK], free=[COUNTS]),
    "old costs": Case(
        write=_sweep(RetentionTarget.ACTIONS),
        held=EVENTS,
        free=["deleted_costs", COUNTS],
        first="INSERT INTO deleted_costs (task_id, state, at, charges, tags) VALUES ('tsk_0', 'failed', 0, '{}', '{}')",
    ),
    "old alerts": Case(
        write=_sweep(RetentionTarget.ALERTS),
        held=EVENTS,
        free=["alerts WHERE closed_at = 1"],
        first="UPDATE alerts SET closed_at = 1, closed_by = 'recovery' WHERE subject = 'tsk_other'",
    ),
    "alerts that ended": Case(write=lambda node: node.alerts.close_ended(now=at(9)), held=EVENTS, free=["alerts"]),
    "a report": Case(
        write=_report,
        held=EVENTS,
        free=["reports WHERE day = '100'"],
        first="INSERT INTO reports SELECT 100 + day, '', 0, 0 FROM generate_series(0, 40) AS day",
    ),
    "corrections": Case(write=_correct, held=EVENTS, locked=[TASK_1, TASK_2], free=[COUNTS]),
    "a label": Case(write=_relabel, held=EVENTS, locked=[TASK_1], free=[COUNTS]),
    "traces": Case(write=_trace_both, held=TASK_2, locked=[TASK_1]),
    "a replay": Case(write=_replay, held=EVENT_2, locked=[EVENT_1]),
    "claims after records": Case(
        write=_claim_and_record,
        held=DELIVERY_2,
        free=[DELIVERY_3],
        first="UPDATE deliveries SET claim = 'mine' WHERE id = 'dlv_2'",
    ),
    "durations": Case(
        write=lambda node: node.durations.save({"a": [1.0]}, now=at(9), keep=1),
        held=DURATIONS,
        free=["durations"],
        first="INSERT INTO durations VALUES ('b', '[]', 0)",
    ),
    "old actions": Case(write=_sweep(RetentionTarget.ACTIONS), held=RETENTION, free=["actions"]),
    "a session": Case(write=_start_session, held=SESSIONS, free=["console_sessions"]),
    "old sessions": Case(write=_sweep(RetentionTarget.SESSIONS), held=SESSIONS, free=["console_sessions"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_write_that_waits_has_locked_what_comes_before_alone(
    node: PostgresStore, raw: Connection, other: Connection, case: Case
) -> None:
    await raw.execute(case.first or "SELECT")
    await other.execute(
        f"BEGIN; {case.held if case.held.startswith('SELECT') else f'SELECT FROM {case.held} FOR UPDATE'}"
    )

    writing = asyncio.ensure_future(case.write(node))
    await wait_until(lambda: writing.done() or is_waiting(raw))

    assert not writing.done()
    assert [row for row in case.locked if not await is_locked(raw, row)] == []
    assert [row for row in case.free if await is_locked(raw, row)] == []
    await other.execute("ROLLBACK")
    await writing


@pytest.mark.parametrize(
    ("target", "row"),
    [
        (RetentionTarget.BODIES, "pushes WHERE body IS NOT NULL"),
        (RetentionTarget.INTENTS, "intents WHERE task_id = 'tsk_old'"),
        (RetentionTarget.TASKS, OLD_TASK),
        (RetentionTarget.BATCHES, "batches"),
    ],
)
async def test_the_deletion_of_old_data_skips_what_is_held(
    node: PostgresStore, raw: Connection, other: Connection, target: RetentionTarget, row: str
) -> None:
    await raw.execute("INSERT INTO batches (name, id, task_count, created_at) VALUES ('b', 'bat_1', 1, 0)")
    await other.execute(f"BEGIN; SELECT FROM {row} FOR UPDATE")

    await _sweep(target)(node)

    assert await is_locked(raw, row)
    await other.execute("ROLLBACK")
    await _sweep(target)(node)
    assert await raw.fetch(f"SELECT FROM {row}") == []
