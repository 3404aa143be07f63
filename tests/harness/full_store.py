"""A store with rows in every table: what a copy of a whole store must carry over."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from harness.clock import START
from harness.factories import a_delivery, a_push, a_task, an_event, at

from receiver.domain.audit import AuditEntry
from receiver.domain.costs import Cost
from receiver.domain.daily_report import LastReport
from receiver.domain.model import (
    ArchiveState,
    Asset,
    Attempt,
    DeliveryStatus,
    HeldBy,
    RouteState,
    TaskState,
    Verdict,
)
from receiver.domain.replays import Replay, ReplaySelection, ReplayState
from receiver.events.payload import envelope
from receiver.store.interfaces import ArchiveUpdate, ById, Change, Total


async def fill_every_table(store: Any, *, tasks: int = 3) -> None:
    """Store *tasks* tasks with one of everything each, of which the last one is deleted again."""
    for number in range(tasks):
        await _add_task(store, number)
    await _add_alert(store)
    held = RouteState(name="publish", failures=3, held_at=at(9), held_by=HeldBy.OPERATOR, held_why="tests")
    await store.deliveries.save_route(held, action=_action("route.held", "publish"))
    await store.replays.add(_a_replay(), action=_action("replay.started", "rpl_1"))
    await store.reports.add(LastReport(day="2026-11-22", at=at(30), callbacks_missed=1.5), None)
    await store.durations.save({"videos/text2video": [1.25, 3.0]}, now=at(40), keep=10)
    await store.costs.save_check(at(50))
    await store.totals.raise_to(Total.CALLBACKS_MISSED, 0.1)
    gone = f"tsk_{tasks - 1:06}"
    await store.deletions.delete(
        gone, check=lambda _: None, places=lambda stored: stored.files, action=_action("task.deleted", gone)
    )


async def _add_task(store: Any, number: int) -> None:
    name = f"{number:06}"
    task = a_task(
        id=f"tsk_{name}",
        kling_id=f"k{name}",
        external_task_id=f"Zoë-{name}",
        state=TaskState.SUCCEED,
        is_end_unverified=number % 2 == 0,
        due_at=None,
        tags={"team": "ä", "client": "雪"},
        batch="b1",
        idempotency_key=f"key-{name}",
        token_hash=number.to_bytes(32),
    )
    await store.tasks.add(task, b'{"prompt":"\\u0000 a fox"}', digest=b"d" * 32)
    await store.traces.save(task.id, f"00-{number:032x}-{1:016x}-01")
    event = an_event(
        f"evt_{name}", task_id=task.id, push_id=f"psh_{name}", archiving=ArchiveState.PENDING, body=bytes(range(256))
    )
    change = Change(
        task=task,
        push=a_push(f"psh_{name}", task_id=task.id, headers=(("x-a", "\x00"),)),
        events=(event,),
        deliveries=(a_delivery(f"dlv_{name}", event_id=event.id),),
        cost=Cost(charges={"units": Decimal("0.10"), "usd": Decimal("0.01")}, raw='{"final_unit_deduction":"0.10"}'),
    )
    await store.tasks.apply(ById(id=task.id), lambda *_: change)
    asset = Asset(
        number=0, url="https://x.example/0.png", sha256=b"s" * 32, size=1, content_type="image/png", path=f"/srv/{name}"
    )
    await store.archive.save(ArchiveUpdate(event_id=event.id, envelope=event.envelope, assets=[asset]))
    await _fail_delivery(store, f"dlv_{name}")


async def _fail_delivery(store: Any, delivery_id: str) -> None:
    await store.deliveries.claim("publish", now=at(10), until=at(99), limit=1, claim="c", only=delivery_id)
    attempt = Attempt(
        delivery_id=delivery_id, number=1, started_at=at(10), duration=timedelta(milliseconds=3), outcome="refused"
    )
    verdict = Verdict(status=DeliveryStatus.DEAD, due_at=at(10), finished_at=at(11))
    assert await store.deliveries.record_attempt(attempt, verdict, claim="c")


async def _add_alert(store: Any) -> None:
    data = {"event_id": "evt_a", "message": "Route publish is held.", "route": "publish", "reason": "HTTP 500"}
    event = an_event(
        "evt_a",
        type="alert.route_held",
        body=b"",
        task_id=None,
        envelope=envelope("alert.route_held", at(20), data),
        created_at=at(20),
    )
    await store.tasks.add_events([event], [])


def _a_replay() -> Replay:
    return Replay(
        id="rpl_1",
        state=ReplayState.RUNNING,
        selection=ReplaySelection(known_routes=("publish",)),
        actor="alice",
        why="why not",
        last="z",
        total=1,
        created_at=at(12),
    )


def _action(verb: str, subject: str) -> AuditEntry:
    return AuditEntry(at=START, actor="alice", verb=verb, subject=subject, reason="tests")
