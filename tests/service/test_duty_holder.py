"""Duties of several nodes, with the leases in a real database and the monotonic clock in the hands of the test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from harness.postgres import PostgresServer
from harness.waiting import wait_until

from receiver.domain.clock import SystemClock
from receiver.domain.duties import Duty, Tenure
from receiver.domain.errors import NodeReplaced, StoreLocked
from receiver.domain.notifier import Notifiers
from receiver.service.nodes.duty_holder import DutyHolder, duties_of
from receiver.service.nodes.duty_plan import LeaseTiming
from receiver.service.nodes.duty_work import DutyWork
from receiver.service.nodes.node_session import NodeSession
from receiver.service.nodes.registration import register
from receiver.store.interfaces.nodes import NodeIdentity, NodesView
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore

TIMING = LeaseTiming()
EndLeases = Callable[[], Awaitable[object]]


class Node:
    """One node: its duties, and the work that runs."""

    def __init__(self, store: PostgresStore, name: str) -> None:
        self.seconds = 0.0
        self.identity = NodeIdentity(name=name, instance=f"{name}-1", version="1")
        self.store = store.between_nodes.nodes
        self.running: set[Duty] = set()
        self.starts: list[Duty] = []
        self.works = {duty: self._work(duty) for duty in Duty}
        self.views: list[NodesView] = []
        self.session = NodeSession(self.store, self.identity, monotonic=lambda: self.seconds)
        self.holder = DutyHolder(
            self.store,
            self.identity,
            self.works,
            self.session,
            before_start=self._nothing,
            on_view=self.views.append,
            timing=TIMING,
            monotonic=lambda: self.seconds,
        )

    @property
    def duties(self) -> list[Duty]:
        return list(duties_of(self.views[-1], self.identity.instance)) if self.views else []

    async def start(self) -> None:
        await register(self.store, self.identity, timing=TIMING)

    async def take_all(self) -> None:
        """Take every duty: a node that finds another one without duties leaves it some time."""
        for _ in range(2):
            await self.holder.beat()
        await wait_until(lambda: self.running == set(Duty))

    async def _nothing(self) -> None: ...

    def _work(self, duty: Duty) -> DutyWork:
        async def part(stop: asyncio.Event) -> None:
            self.running.add(duty)
            self.starts.append(duty)
            try:
                await stop.wait()
            finally:
                self.running.discard(duty)

        tenure = Tenure(lambda: self.seconds)
        return DutyWork(duty, {duty.value: part}, tenure, notifiers=Notifiers(), clock=SystemClock())


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    opened = await PostgresStore.open(Address(url=postgres_url))
    async with contextlib.aclosing(opened):
        yield opened


@pytest.fixture
async def a(store: PostgresStore) -> AsyncIterator[Node]:
    node = Node(store, "a")
    await node.start()
    yield node
    for work in node.works.values():
        work.abort()
        await work.ended()


@pytest.fixture
async def b(store: PostgresStore) -> AsyncIterator[Node]:
    node = Node(store, "b")
    await node.start()
    yield node
    for work in node.works.values():
        work.abort()
        await work.ended()


@pytest.fixture
def end_leases(postgres: PostgresServer, postgres_database: str) -> EndLeases:
    """Let all leases end by the database's clock."""
    statement = "UPDATE leases SET until = 0; UPDATE nodes SET seen_at = seen_at - 60000000"
    return lambda: postgres.execute(statement, database=postgres_database)


async def test_a_node_alone_does_every_duty(a: Node) -> None:
    await a.holder.beat()

    await wait_until(lambda: a.running == set(Duty))


async def test_a_duty_is_done_by_one_node_at_a_time(a: Node, b: Node) -> None:
    for _ in range(6):
        await asyncio.gather(a.holder.beat(), b.holder.beat())
        assert not a.running & b.running

    await wait_until(lambda: a.running | b.running == set(Duty))
    assert a.running
    assert b.running


async def test_the_owner_of_ended_leases_renews_them_if_no_node_took_them(
    a: Node, b: Node, end_leases: EndLeases
) -> None:
    await a.holder.beat()
    await b.holder.beat()
    held = {duty for duty in Duty if a.works[duty].is_running}
    await end_leases()

    await b.holder.beat()
    await a.holder.beat()
    await b.holder.beat()

    assert {*duties_of(await a.store.nodes(), "a-1")} == held


async def test_the_duties_of_a_dead_node_are_taken_over(a: Node, b: Node, end_leases: EndLeases) -> None:
    await a.take_all()
    await end_leases()

    for _ in range(3):
        await b.holder.beat()

    await wait_until(lambda: b.running == set(Duty))


async def test_after_an_outage_of_the_database_no_node_replaces_another_at_once(
    a: Node, b: Node, end_leases: EndLeases
) -> None:
    await a.take_all()
    b.seconds += 60
    await end_leases()

    for _ in range(3):
        await b.holder.beat()
        assert b.duties == []
    for _ in range(6):
        b.seconds += TIMING.interval.total_seconds()
        await b.holder.beat()
    await wait_until(lambda: b.running == set(Duty))


async def test_a_node_that_comes_back_too_late_finds_its_work_cancelled(
    a: Node, b: Node, end_leases: EndLeases
) -> None:
    await a.take_all()
    await end_leases()
    for _ in range(3):
        await b.holder.beat()

    await a.holder.beat()

    await wait_until(lambda: not a.running)
    assert not any(work.tenure.is_held for work in a.works.values())


async def test_a_node_stops_by_itself_before_its_leases_end(a: Node) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(a.holder.run(stop))
    await wait_until(lambda: a.running == set(Duty))
    tenure = a.works[Duty.KLING].tenure

    a.seconds = tenure.until - 0.01
    was_held = tenure.is_held
    a.seconds = tenure.until

    assert was_held
    assert not tenure.is_held
    assert timedelta(seconds=tenure.until) <= TIMING.lifetime - TIMING.margin
    stop.set()
    await running


async def test_work_starts_again_after_an_outage_of_the_database(a: Node) -> None:
    await a.holder.beat()
    await wait_until(lambda: a.running == set(Duty))
    for work in a.works.values():
        work.abort()
        await work.ended()

    await a.holder.beat()

    await wait_until(lambda: a.running == set(Duty))
    assert len(a.starts) == 2 * len(Duty)


async def test_a_joining_node_is_handed_a_duty(a: Node, b: Node) -> None:
    await a.take_all()
    b.seconds = a.seconds = 100.0

    await a.holder.beat()
    await wait_until(lambda: len(a.running) == len(Duty) - 1)
    await asyncio.sleep(0.05)
    await b.holder.beat()

    await wait_until(lambda: len(b.running) == 1)
    assert not a.running & b.running


async def test_a_stopping_node_releases_its_duties(a: Node, b: Node) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(a.holder.run(stop))
    await wait_until(lambda: a.running == set(Duty))

    stop.set()
    await running
    for _ in range(2):
        await b.holder.beat()

    await wait_until(lambda: b.running == set(Duty))
    assert [node.name for node in (await b.store.nodes()).nodes] == ["b"]


async def test_an_error_in_the_work_of_a_duty_ends_the_node(a: Node) -> None:
    async def fail(_stop: asyncio.Event) -> None:
        raise RuntimeError("a defect")

    a.works[Duty.KLING]._parts = {"broken": fail}

    with pytest.raises(RuntimeError, match="a defect"):
        await a.holder.run(asyncio.Event())


async def test_a_second_live_process_with_the_name_of_a_node_is_refused(a: Node) -> None:
    async def renew(_seconds: float) -> None:
        await a.holder.beat()

    with pytest.raises(StoreLocked, match="Another live process is node 'a'"):
        await register(a.store, NodeIdentity(name="a", instance="a-2", version="1"), timing=TIMING, sleep=renew)


async def test_a_process_that_died_is_replaced_once_it_is_silent(a: Node, end_leases: EndLeases) -> None:
    async def pass_time(_seconds: float) -> None:
        raise AssertionError("it is silent for long enough")

    await end_leases()
    await register(a.store, NodeIdentity(name="a", instance="a-2", version="1"), timing=TIMING, sleep=pass_time)

    with pytest.raises(NodeReplaced, match="has taken the name of this node, 'a'"):
        await a.holder.beat()
