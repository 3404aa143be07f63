"""The duty of sending moves as soon as the session of its holder has ended, and a stale holder starts nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.factories import a_task
from harness.postgres import PostgresServer
from harness.waiting import wait_until
from service.test_duty_holder import TIMING, Node, a, b, store
from store.test_postgres_sessions import END_SESSIONS

from receiver.domain.duties import Duty
from receiver.domain.errors import DutyLost
from receiver.domain.model import Task, TaskState
from receiver.store.interfaces import ApplyCall, ById, Change
from receiver.store.postgres.store import PostgresStore

__all__ = ["a", "b", "store"]

LIFETIME = TIMING.lifetime.total_seconds()


@asynccontextmanager
async def a_session(node: Node) -> AsyncIterator[None]:
    """Let a node keep its session open. Its end is that of a killed process."""
    running = asyncio.create_task(node.session.run())
    try:
        await wait_until(lambda: node.session.is_open)
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def lose_session(a: Node, b: Node) -> None:
    """Let node A take every duty and lose its session. Node B has been connected for longer than A's lease."""
    async with a_session(a):
        await a.take_all()
    b.seconds += LIFETIME
    await wait_until(lambda: is_abandoned(a))


async def is_abandoned(node: Node) -> bool:
    return await node.store.abandoned(Duty.KLING) is not None


async def test_sending_is_taken_over_when_the_session_of_its_holder_has_ended(a: Node, b: Node) -> None:
    async with a_session(b):
        await lose_session(a, b)

        await b.holder.look()
        first = set(b.running)
        await b.holder.look()
        await wait_until(lambda: Duty.KLING in b.running)

    assert first == set()
    assert b.running == {Duty.KLING}  # the other duties have their time limit


async def test_the_new_holder_knows_until_when_the_earlier_one_may_still_create(a: Node, b: Node) -> None:
    async with a_session(b):
        await lose_session(a, b)
        for _ in range(2):
            await b.holder.look()

    assert b.works[Duty.KLING].tenure.overlaps_until == b.seconds + TIMING.overlap
    assert TIMING.overlap >= TIMING.margin.total_seconds() + 1


async def test_a_node_that_is_connected_since_the_last_renewal_leaves_the_lease_to_its_holder(a: Node, b: Node) -> None:
    """After a restart of the server no session is left, although every node lives."""
    await lose_session(a, b)
    async with a_session(b):
        for _ in range(3):
            await b.holder.look()

    assert b.running == set()


async def test_a_node_without_a_session_waits_for_the_end_of_the_lease(a: Node, b: Node) -> None:
    await lose_session(a, b)
    for _ in range(3):
        await b.holder.look()

    assert b.running == set()


async def test_a_holder_whose_session_the_server_ended_opens_another_and_keeps_its_duty(
    a: Node, b: Node, postgres: PostgresServer, postgres_database: str
) -> None:
    async with a_session(b):
        stop = asyncio.Event()
        running = asyncio.create_task(a.holder.run(stop))
        await wait_until(lambda: a.session.is_open and a.running == set(Duty))
        views = len(a.views)
        await postgres.execute(END_SESSIONS, database=postgres_database)
        await wait_until(lambda: a.session.is_open and b.session.is_open and len(a.views) > views + 1)

        assert not await is_abandoned(b)
        assert Duty.KLING in a.running
        assert a.starts.count(Duty.KLING) == 1
        stop.set()
        await running


async def test_a_stale_holder_starts_nothing(a: Node, b: Node, store: PostgresStore) -> None:
    tenure = a.works[Duty.KLING].tenure
    async with a_session(b):
        await lose_session(a, b)
        for _ in range(2):
            await b.holder.look()
    await store.tasks.add(a_task(id="tsk_1", kling_id=None, state=TaskState.QUEUED), b"{}")
    decided: list[Task] = []

    def decide(held: Task, _: object) -> Change:
        decided.append(held)
        return Change()

    async def start(node: Node) -> object:
        fence = node.works[Duty.KLING].tenure.fence()
        return (await store.tasks.apply_all([ApplyCall(ref=ById(id="tsk_1"), decide=decide, fence=fence)]))[0]

    assert tenure.is_held  # by its own clock
    assert isinstance(await start(a), DutyLost)
    assert decided == []
    assert isinstance(await start(b), Change)
