"""Frequent writes of a node that two nodes make at the same time: callbacks, submits, polls, deliveries and alerts."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta

from harness.factories import a_delivery, a_push, a_task, an_event, at
from msgspec.structs import replace
from store.test_costs import a_cost
from store.test_deliveries import an_attempt

from receiver.domain.audit import AuditEntry
from receiver.domain.duties import Duty, Fence
from receiver.domain.errors import DutyLost
from receiver.domain.model import Delivery, DeliveryStatus, Event, RouteState, Task, TaskState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.events.payload import envelope
from receiver.store.interfaces import ApplyCall, ById, Change, Decide
from receiver.store.interfaces.nodes import NodeIdentity
from receiver.store.postgres.store import PostgresStore

TASKS = [f"tsk_{number:03}" for number in range(12)]
ROUTES = ("one", "two")
DEAD = Verdict(status=DeliveryStatus.DEAD, due_at=at(5), finished_at=at(5))
NOTE = AuditEntry(at=at(5), actor="anna", verb="noted", subject="x", reason="a test")

Work = Callable[[PostgresStore, int, int], Iterable[Awaitable[object]]]
"""Writes of one node, given its number and that of the round."""


def callbacks(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Callbacks with a push, an event, deliveries on both routes and a cost, for all tasks."""
    for id_ in TASKS:
        name = f"{round_}_{by}_{id_}"
        event = an_event(f"evt_{name}", type="task.processing", task_id=id_)
        change = Change(
            push=a_push(f"psh_{name}", task_id=id_),
            events=[event],
            deliveries=[a_delivery(f"dlv_{name}_{route}", event_id=event.id, route=route) for route in ROUTES],
            cost=a_cost(units=str(round_ + 1)),
        )
        yield node.tasks.apply(ById(id=id_), touch(change))


def touch(change: Change, **columns: object) -> Decide:
    """Return a decision that also changes the task."""

    def decide(task: Task, _pending: object) -> Change:
        return replace(change, task=replace(task, updated_at=task.updated_at + timedelta(seconds=1), **columns))

    return decide


def alerts(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Alerts about the same subjects."""
    for route in ROUTES:
        yield node.tasks.add_events([an_alert(f"evt_a{round_}_{by}_{route}", route)], [])


def an_alert(id_: str, subject: str, *, name: str = "route_held", task_id: str | None = None) -> Event:
    """An alert about a route, or about an event."""
    type_ = f"alert.{name}"
    data = {"message": "Held.", "route" if name == "route_held" else "event": subject}
    return an_event(id_, type=type_, body=b"", task_id=task_id, envelope=envelope(type_, at(1), data))


def holds(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Holds of both routes, with an alert and an audit entry."""
    return _holds(node, f"{round_}_{by}")


def _holds(node: PostgresStore, name: str) -> Iterable[Awaitable[object]]:
    for route in ROUTES:
        alert = RoutedEvent(event=an_alert(f"evt_h{name}_{route}", route), deliveries=[])
        yield node.deliveries.save_route(RouteState(name=route), alert=alert, action=NOTE)


def deaths(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Claims of deliveries of both routes that die. Each changes its route and raises an alert, as a hold does."""
    for number in range(4):
        yield _die(node, f"{round_}_{by}_{number}", holds_first=bool(by))


async def _die(node: PostgresStore, name: str, *, holds_first: bool) -> None:
    claims = [node.deliveries.claim(route, now=at(10), until=at(60), limit=2, claim=name) for route in ROUTES]
    claimed = [each.delivery for found in await asyncio.gather(*claims) for each in found]
    records = [_record(node, delivery, f"{name}_{delivery.id}", name) for delivery in claimed]
    both = [*records, *_holds(node, name)]
    await asyncio.gather(*(reversed(both) if holds_first else both))


async def _record(node: PostgresStore, delivery: Delivery, name: str, claim: str) -> None:
    alert = RoutedEvent(event=an_alert(f"evt_d{name}", delivery.route), deliveries=[])
    state = RouteState(name=delivery.route, failures=1)
    attempt = an_attempt(delivery.id, delivery.attempts + 1)
    await node.deliveries.record_attempt(attempt, DEAD, claim=claim, route=state, alerts=[alert])


def submits(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Submits of new tasks into two batches that both nodes fill."""
    for number in range(4):
        for batch in ROUTES:
            id_ = f"tsk_n{round_}_{by}_{number}_{batch}"
            task = a_task(id=id_, kling_id=id_, external_task_id=id_, batch=f"{batch}{round_}", idempotency_key=id_[4:])
            yield node.tasks.add(task, b"{}", events=[an_alert(f"evt_s{id_}", batch)])


def polls(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:  # noqa: ARG001 -- as each work
    """Claims of due tasks, and all tasks made due."""
    states = [TaskState.SUBMITTED]
    for number in range(3):
        yield node.tasks.claim_tasks(states, now=at(9000), until=at(9000 + number), limit=20)
        yield node.tasks.make_due(states, now=at(10), before=at(10**6), min_gap=at(1) - at(0))
        yield node.tasks.assign_fair_shares(f"project{by}")


def repeated_creates(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Creates of one node with the idempotency keys of refused ones, whose tasks the other node changes."""
    keys = [f"r{round_}_{number}" for number in range(6)]
    for turn in range(3):
        for key in keys:
            if by:
                yield node.tasks.apply(ById(id=f"tsk_{key}"), touch(Change()))
            else:
                yield node.tasks.add(_create(f"tsk_{turn}_{key}", keys[-1 - keys.index(key)]), b"{}")


def _create(id_: str, key: str) -> Task:
    return a_task(id=id_, kling_id=None, external_task_id=id_, idempotency_key=key)


def fenced_changes(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Changes that need a lease, while both nodes take it from each other."""
    me = NodeIdentity(name=f"node{by}", instance=f"{by}", version="1")
    for number, id_ in enumerate(TASKS):
        yield _take(node, me)
        event = an_alert(f"evt_f{round_}_{by}_{number}", "one")
        yield _change_fenced(node, id_, me, Change(events=[event]))


async def _take(node: PostgresStore, me: NodeIdentity) -> None:
    duty, lifetime = Duty.KLING, timedelta(microseconds=1)
    [epoch] = [lease.epoch for lease in (await node.between_nodes.nodes.nodes()).leases if lease.duty is duty]
    await node.between_nodes.nodes.take(me, duty, epoch=epoch, lifetime=lifetime)
    await node.between_nodes.nodes.renew(me, [duty], lifetime=lifetime)


async def _change_fenced(node: PostgresStore, id_: str, me: NodeIdentity, change: Change) -> None:
    leases = (await node.between_nodes.nodes.nodes()).leases
    [epoch] = [lease.epoch for lease in leases if lease.duty is Duty.KLING]
    fence = Fence(duty=Duty.KLING, instance=me.instance, epoch=epoch, made_at=0.0)
    with suppress(DutyLost):
        await node.tasks.apply_all([ApplyCall(ref=ById(id=id_), decide=touch(change), fence=fence)])
