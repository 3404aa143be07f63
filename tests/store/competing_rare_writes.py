"""Rare writes of a node that two nodes make at the same time: deletion, replays, archiving, sessions and others."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any

from harness.factories import a_delivery, a_push, a_task, an_event, at
from store.competing_writes import NOTE, ROUTES, TASKS, an_alert, touch
from store.conftest import decide_always
from store.test_archive import ASSET
from store.test_costs import a_cost
from store.test_deliveries import an_attempt
from store.test_replays import a_replay

from receiver.domain.batches import FinishedBatch
from receiver.domain.bill import UnitCorrection
from receiver.domain.console_sessions import ConsoleSession, Role, Visitor
from receiver.domain.daily_report import LastReport
from receiver.domain.model import ArchiveState, DeliveryStatus, Event, PushOutcome, Task, TaskState, Verdict
from receiver.domain.replays import Replay, ReplayStep
from receiver.domain.tracked_alerts import Acknowledgement, AlertState
from receiver.events.factory import RoutedEvent
from receiver.store.interfaces import ArchiveUpdate, ById, Change, RetentionTarget, StoredTask, Total
from receiver.store.interfaces.nodes import NodeIdentity
from receiver.store.postgres.store import PostgresStore

MANY = 6
BATCHES = ("x", "y", "z")
ANNA = Visitor(role=Role.ADMIN, name="anna")
LATER = at(10**6)


async def prepare(node: PostgresStore, round_: int) -> None:
    """Store what the works of a round need: tasks that ended with and without an event, replays, batches and nodes."""
    await asyncio.gather(
        *(_end_task(node, round_, number) for number in range(MANY)),
        *(_end_task_without_event(node, round_, number) for number in range(MANY)),
        *(_refuse_task(node, round_, number) for number in range(MANY)),
        *(node.replays.add(_replay(round_, number), action=NOTE) for number in range(2)),
        *(node.tasks.add(_ended_task(f"tsk_b{round_}_{name}", batch=f"{name}{round_}"), b"{}") for name in BATCHES),
    )
    for name in ("0", "1"):
        await node.between_nodes.nodes.register(NodeIdentity(name=f"node{name}", instance=name, version="1"))


def _ended_task(id_: str, **changes: Any) -> Task:
    return a_task(id=id_, kling_id=id_, external_task_id=id_, state=TaskState.SUCCEED, due_at=None, **changes)


def _ended(round_: int) -> Sequence[str]:
    return [f"tsk_e{round_}_{number}" for number in range(MANY)]


def _event(round_: int, number: int) -> Event:
    archiving = ArchiveState.PENDING if number % 2 else None
    return an_event(f"evt_e{round_}_{number}", task_id=f"tsk_e{round_}_{number}", archiving=archiving)


async def _end_task(node: PostgresStore, round_: int, number: int) -> None:
    event = _event(round_, number)
    task = _ended_task(f"tsk_e{round_}_{number}", label=f"label{number % 2}", tags={"team": f"{number % 3}"})
    change = Change(
        push=a_push(f"psh_e{round_}_{number}", task_id=task.id, outcome=PushOutcome.DUPLICATE),
        events=[event],
        deliveries=[
            a_delivery(f"dlv_e{round_}_{number}_{route}", event_id=event.id, route=route, due_at=at(5000))
            for route in ROUTES
        ],
        cost=a_cost(units=str(number % 2 + 1)),
    )
    await node.tasks.add(task, b"{}")
    await node.tasks.apply(ById(id=task.id), decide_always(change))


async def _end_task_without_event(node: PostgresStore, round_: int, number: int) -> None:
    id_ = f"tsk_o{round_}_{number}"
    task = _ended_task(id_, label=f"label{number % 2}", tags={"team": f"{(MANY - number) % 3}"})
    push = a_push(f"psh_o{round_}_{number}", task_id=id_, outcome=PushOutcome.DUPLICATE)
    await node.tasks.add(task, b"{}")
    change = Change(push=push, cost=a_cost(units=str(number % 2 + 1)))
    await node.tasks.apply(ById(id=id_), decide_always(change))


async def _refuse_task(node: PostgresStore, round_: int, number: int) -> None:
    key = f"r{round_}_{number}"
    task = a_task(id=f"tsk_{key}", kling_id=None, state=TaskState.REJECTED, due_at=None, idempotency_key=key)
    await node.tasks.add(task, b"{}")


def _replay(round_: int, number: int) -> Replay:
    return a_replay(f"rpl_{round_}_{number}")


def sessions(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Sessions and links of both nodes, of which few are kept, and the deletion of those that have expired."""
    rng = Random(2 * round_ + by)
    keys = [bytes([each, round_]) + number.to_bytes(30) for number in range(3 * MANY) for each in range(2)]
    for turn in range(3):
        own = [key for key in keys if key[0] == by][turn * MANY : (turn + 1) * MANY]
        ends = [at(100 + 10 * turn + rng.randrange(9)) for _ in own]
        for key, end in zip(own, ends, strict=True):
            yield node.sessions.start(key, ConsoleSession(visitor=ANNA, expires_at=end), most=MANY)
        for key in rng.sample(keys, len(keys)):
            yield node.sessions.renew(key, expires_at=at(100 + 10 * turn + rng.randrange(19)))
        for key, end in zip(own, ends, strict=True):
            yield node.sessions.add_link(key, ANNA, expires_at=end, most=MANY)
        for key in rng.sample(keys, len(keys)):
            yield node.sessions.set_notice(key, "Done.")
        yield node.retention.sweep(RetentionTarget.SESSIONS, before=at(0), now=at(105 + 10 * turn))
        for key in rng.sample(keys, MANY):
            yield node.sessions.redeem_link(key, now=at(0))
        for key in rng.sample(keys, MANY):
            yield node.sessions.end(key)


def deletions(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:  # noqa: ARG001 -- as each work
    """Deletions of the same tasks, whose costs have the same counts, and of their files."""
    ids = [*_ended(round_), *(f"tsk_r{round_}_{number}" for number in range(MANY))]
    for id_ in ids:
        yield node.deletions.delete(id_, check=lambda _: None, places=_places, action=NOTE)
    for id_ in ids:
        yield node.deletions.removed(["/both", f"/{id_}"])


def _places(stored: StoredTask) -> Sequence[str]:
    return [f"/{stored.task.id}", "/both"]


def sweeps(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:  # noqa: ARG001 -- as each work
    """Deletion of everything that is old."""
    for _ in range(2):
        for target in RetentionTarget:
            yield node.retention.sweep(target, before=LATER, now=LATER)


def redundant_pushes(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Pushes without effect, of which few are kept."""
    for number in range(2 * MANY):
        id_ = TASKS[-1 - number]
        push = a_push(f"psh_r{round_}_{by}_{number}", task_id=id_, outcome=PushOutcome.DUPLICATE)
        yield node.tasks.apply(ById(id=id_), touch(Change(push=push, keep_redundant=1, intent=b"[]")))


def labels(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Changes of what costs are summed by, of other tasks on each node, whose costs have the same counts."""
    for turn in range(20):
        for id_ in _ended(round_)[2 * by : 2 * by + 2]:
            yield node.tasks.apply(ById(id=id_), touch(Change(), label=f"turn{turn}"))
        yield node.tasks.assign_fair_shares("team")  # the next turn is another transaction


def corrections(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Corrections of the costs of the same tasks."""
    for id_ in [*_ended(round_), *(f"tsk_o{round_}_{number}" for number in range(MANY))]:
        correction = UnitCorrection(task_id=id_, charges={"units": Decimal(by + 1)})
        yield node.costs.correct([correction], now=at(9))


def traces(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Traces of the same tasks."""
    for id_ in _ended(round_):
        yield node.traces.save(id_, f"00-{by:032}-{round_:016}-01")


def archiving(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Files of the same events, alerts about them, all events due at once, and the end of all archiving."""
    for turn in range(2):
        for number in range(1, MANY, 2):
            yield node.archive.save(
                _update(_event(round_, number), f"{round_}_{by}_{turn}_{number}", late=number + turn)
            )
        for number in range(3):
            yield node.archive.make_all_due(now=at(100 - number - 10 * turn))
    yield node.archive.abandon_all(now=at(50 - by))


def _update(event: Event, name: str, *, late: int) -> ArchiveUpdate:
    alert = an_alert(f"evt_x{name}", event.id, name="asset_lost", task_id=event.task_id)
    return ArchiveUpdate(
        event_id=event.id,
        envelope=event.envelope,
        assets=[ASSET],
        archiving=ArchiveState.PENDING,
        archive_at=at(900 - late),
        deliver_at=at(4000 - 100 * late),
        alerts=[RoutedEvent(event=alert, deliveries=[])],
    )


def replays(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Steps of the same replays, with deliveries of the same events, and repeated deliveries."""
    for number in range(2):
        replay = _replay(round_, number)
        numbers = range(MANY) if by == number else reversed(range(MANY))
        deliveries = [
            a_delivery(f"dlv_p{round_}_{number}_{by}_{each}", event_id=f"evt_e{round_}_{each}", replay_of="dlv_0")
            for each in numbers
        ]
        yield node.replays.advance(ReplayStep(replay=replay, deliveries=deliveries, cursor="evt_1"))
    for number in range(MANY):
        delivery = a_delivery(f"dlv_q{round_}_{by}_{number}", event_id=f"evt_e{round_}_{number}", replay_of="dlv_0")
        yield node.replays.add_repeat(delivery, action=NOTE)
    for number in range(MANY):
        yield node.replays.make_due(f"dlv_e{round_}_{number}_one", now=at(9), action=NOTE)
    for number in range(2):
        yield node.replays.cancel(_replay(round_, number).id, now=at(9), action=NOTE)


def batches(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Tasks of batches that are closed, finished and deleted meanwhile."""
    names = [f"{name}{round_}" for name in BATCHES]
    for turn in range(2):
        for name in names:
            yield node.tasks.add(_ended_task(f"tsk_b{by}_{turn}_{name}", batch=name), b"{}")
    for name in names:
        yield node.batches.close(name, now=at(9), action=NOTE)
    for name in names:
        yield node.batches.finish(name, partial(_batch_event, f"evt_b{by}_{name}"), limit=9)
    yield node.retention.sweep(RetentionTarget.BATCHES, before=LATER, now=LATER)


def _batch_event(id_: str, _: FinishedBatch) -> RoutedEvent:
    return RoutedEvent(event=an_event(id_, type="batch.finished", task_id=None), deliveries=[])


def alert_states(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Alerts that the end of their cause or an operator closes, and that are reported again meanwhile."""
    for turn in range(3):
        for number in range(MANY):
            alert = an_alert(f"evt_s{round_}_{by}_{turn}_{number}", f"{number}", name="task_contradicted")
            yield node.tasks.add_events([alert], [])
        yield node.alerts.close_ended(now=at(9))
        yield _acknowledge(node)
        yield node.retention.sweep(RetentionTarget.ALERTS, before=LATER, now=LATER)


async def _acknowledge(node: PostgresStore) -> None:
    """Acknowledge the open alerts, which ends those about an asset."""
    for alert in (await node.alerts.list(states=[AlertState.OPEN])).items:
        await node.alerts.acknowledge(alert.id, Acknowledgement(at=at(9), actor="anna"), action=NOTE)


def records(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Small records of which each table has few rows: durations, reports and totals."""
    for number in range(MANY):
        kinds = [f"kind{(number + each) % MANY}" for each in (by, by + 2)]
        yield node.durations.save({kind: [1.0] for kind in kinds}, now=at(10 * round_ + number), keep=3)
    for number in range(MANY):
        report = LastReport(day=f"2026-{round_ + 1:02}-{number}", at=at(9), callbacks_missed=0)
        event = an_event(f"evt_d{round_}_{by}_{number}", type="report.daily", task_id=None)
        yield node.reports.add(report, RoutedEvent(event=event, deliveries=[]))
    for number in range(MANY):
        yield node.totals.raise_to(Total.CALLBACKS_MISSED, number)


def releases(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Claims and attempts of deliveries, and what makes deliveries due: releases, retries and a clock set back."""
    for number in range(4):
        yield _attempt(node, f"c{round_}_{by}_{number}", at(10**5 + number))
        for route in ROUTES:
            yield node.deliveries.retry_now(route, now=at(5 + number))
        for route in ROUTES:
            yield node.deliveries.bring_forward(route, now=at(1), archive_wait_until=at(4000), limit=9)
        yield node.deliveries.release_all(now=at(5), suspect_after=3)


async def _attempt(node: PostgresStore, claim: str, now: datetime) -> None:
    """Claim deliveries of both routes; release the first, and record an attempt at each of the others."""
    found = await asyncio.gather(
        *(node.deliveries.claim(route, now=now, until=at(10**6), limit=6, claim=claim) for route in ROUTES)
    )
    claimed = [each.delivery for some in found for each in some]
    retry = Verdict(status=DeliveryStatus.PENDING, due_at=at(10**4))
    await asyncio.gather(
        *(node.deliveries.release(each.id, claim=claim, now=now) for each in claimed[:1]),
        *(
            node.deliveries.record_attempt(an_attempt(each.id, each.attempts + 1), retry, claim=claim)
            for each in reversed(claimed[1:])
        ),
    )
