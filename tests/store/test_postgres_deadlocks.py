"""The transactions of two nodes that touch the same rows in opposite order never wait for each other in a circle.

A circle would end after a second, by an error of the server, and the transaction would be repeated. The tests count
the circles that the server has found.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest
from chaos.parameters import env_int
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.postgres import PostgresServer
from msgspec.structs import replace
from store.conftest import a_postgres_store
from store.test_costs import a_cost
from store.test_deliveries import an_attempt

from receiver.domain.audit import AuditEntry
from receiver.domain.console_sessions import ConsoleSession, Role, Visitor
from receiver.domain.model import Delivery, DeliveryStatus, Event, RouteState, Task, TaskState, Verdict
from receiver.events.factory import RoutedEvent
from receiver.events.payload import envelope
from receiver.store.interfaces import ById, Change, Decide, RetentionTarget
from receiver.store.postgres.store import PostgresStore

ROUNDS = env_int("DEADLOCK_ROUNDS", 4)
TASKS = [f"tsk_{number:03}" for number in range(12)]
ROUTES = ("one", "two")
DEAD = Verdict(status=DeliveryStatus.DEAD, due_at=at(5), finished_at=at(5))
NOTE = AuditEntry(at=at(5), actor="anna", verb="noted", subject="x", reason="a test")

Work = Callable[[PostgresStore, int, int], Iterable[Awaitable[object]]]
"""Writes of one node, given its number and that of the round."""


@pytest.fixture
async def impatient_url(postgres: PostgresServer, postgres_database: str) -> str:
    """The URL of a database that looks for circles early."""
    await postgres.execute(f"ALTER DATABASE {postgres_database} SET deadlock_timeout = '20ms'")
    return postgres.url(postgres_database)


async def deadlocks_of(url: str, *works: Work) -> int:
    """Let two nodes do *works* at the same time, the second one in the opposite order. Return the deadlocks."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(a_postgres_store(url)) for _ in range(2)]
        for id_ in TASKS:
            await nodes[0].tasks.add(a_task(id=id_, kling_id=id_, external_task_id=id_), b"{}")
        for round_ in range(ROUNDS):
            await asyncio.gather(*callbacks(nodes[0], 2, round_))  # with deliveries that may die
            await asyncio.wait_for(asyncio.gather(*_both(nodes, round_, works)), 60)
    connection = await asyncpg.connect(url)
    found: int = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    await connection.close()
    return found


def _both(nodes: Sequence[PostgresStore], round_: int, works: Sequence[Work]) -> Iterable[Awaitable[object]]:
    first = [each for work in works for each in work(nodes[0], 0, round_)]
    second = [each for work in reversed(works) for each in reversed(list(work(nodes[1], 1, round_)))]
    return [*first, *second]


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
        yield node.tasks.apply(ById(id=id_), _touch(change))


def _touch(change: Change) -> Decide:
    def decide(task: Task, _pending: object) -> Change:
        return replace(change, task=replace(task, updated_at=task.updated_at + timedelta(seconds=1)))

    return decide


def alerts(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Alerts about the same subjects."""
    for route in ROUTES:
        yield node.tasks.add_events([_alert(f"evt_a{round_}_{by}_{route}", route)], [])


def _alert(id_: str, route: str) -> Event:
    data = {"message": "Held.", "route": route}
    return an_event(
        id_, type="alert.route_held", body=b"", task_id=None, envelope=envelope("alert.route_held", at(1), data)
    )


def holds(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Holds of both routes, with an alert and an audit entry."""
    return _holds(node, f"{round_}_{by}")


def _holds(node: PostgresStore, name: str) -> Iterable[Awaitable[object]]:
    for route in ROUTES:
        alert = RoutedEvent(event=_alert(f"evt_h{name}_{route}", route), deliveries=[])
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
    alert = RoutedEvent(event=_alert(f"evt_d{name}", delivery.route), deliveries=[])
    state = RouteState(name=delivery.route, failures=1)
    attempt = an_attempt(delivery.id, delivery.attempts + 1)
    await node.deliveries.record_attempt(attempt, DEAD, claim=claim, route=state, alerts=[alert])


def submits(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Submits of new tasks into two batches that both nodes fill."""
    for number in range(4):
        for batch in ROUTES:
            id_ = f"tsk_n{round_}_{by}_{number}_{batch}"
            task = a_task(id=id_, kling_id=id_, external_task_id=id_, batch=f"{batch}{round_}", idempotency_key=id_[4:])
            yield node.tasks.add(task, b"{}", events=[_alert(f"evt_s{id_}", batch)])


def polls(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:  # noqa: ARG001 -- as each work
    """Claims of due tasks, and all tasks made due."""
    states = [TaskState.SUBMITTED]
    for number in range(3):
        yield node.tasks.claim_tasks(states, now=at(9000), until=at(9000 + number), limit=20)
        yield node.tasks.make_due(states, now=at(10), before=at(10**6), min_gap=at(1) - at(0))
        yield node.tasks.assign_fair_shares(f"project{by}")


def housekeeping(node: PostgresStore, by: int, round_: int) -> Iterable[Awaitable[object]]:
    """Deletion of what is old, and sessions that both nodes use."""
    for target in RetentionTarget:
        yield node.retention.sweep(target, before=at(-1), now=at(10**6))
    session = ConsoleSession(visitor=Visitor(role=Role.ADMIN, name="anna"), expires_at=at(10**7))
    keys = [number.to_bytes(32) for number in range(4)]
    for key in keys:
        yield node.sessions.end(key)
        yield node.sessions.start(bytes([by, round_, *key[2:]]), session, most=6)
        yield node.sessions.renew(bytes([1 - by, round_, *key[2:]]), expires_at=at(10**7 + round_))


@pytest.mark.parametrize(
    "works",
    [
        (callbacks,),
        (callbacks, alerts),
        (callbacks, deaths),
        (deaths, holds),
        (callbacks, submits),
        (callbacks, polls),
        (callbacks, alerts, deaths, holds, submits, polls, housekeeping),
    ],
    ids=lambda works: " and ".join(work.__name__ for work in works),
)
async def test_two_nodes_never_deadlock(impatient_url: str, works: Sequence[Work]) -> None:
    assert await deadlocks_of(impatient_url, *works) == 0
