"""Notifications between nodes, and the looks at the store without them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from harness.waiting import wait_until

from receiver.domain.errors import StoreError, StoreUnavailable
from receiver.domain.notifier import Notifiers
from receiver.service.nodes import signals
from receiver.service.nodes.signals import NodeSignals
from receiver.store.interfaces.node_calls import SignalStore
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with aclosing(await PostgresStore.open(Address(url=postgres_url))) as opened:
        yield opened


class Deaf:
    """A database without notifications: it swallows them, or refuses LISTEN with an error."""

    def __init__(self, error: StoreError | None = None) -> None:
        self.error = error

    async def notify(self, payload: str) -> None:  # noqa: ARG002 -- swallowed
        return

    @asynccontextmanager
    async def listening(self, receive: Callable[[str], None]) -> AsyncIterator[Callable[[], None]]:  # noqa: ARG002 -- never called
        if self.error is not None:
            raise self.error
        yield lambda: None


class Node:
    """The signals of a node, and how often its workers were woken."""

    def __init__(self, store: SignalStore, name: str) -> None:
        self.notifiers = Notifiers()
        self.wake = self.notifiers.tasks.subscribe()
        self.signals = NodeSignals(store, self.notifiers, name, has_others=lambda: True)
        self.running = asyncio.create_task(self.signals.run(asyncio.Event()))

    async def woken(self) -> None:
        await asyncio.wait_for(self.wake.wait(), 60)
        self.wake.clear()


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for node in nodes:
            node.running.cancel()
        await asyncio.gather(*(node.running for node in nodes), return_exceptions=True)


async def test_a_node_wakes_the_others(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "LOOK_EVERY", 3600.0)
    one, other = (Node(store.between_nodes.signals, name) for name in ("one", "other"))
    async with running(one, other):
        await wait_until(lambda: not one.signals.is_deaf and not other.signals.is_deaf, seconds=60)
        other.wake.clear()

        one.notifiers.tasks.notify()

        await other.woken()


@pytest.mark.parametrize(
    "error",
    [None, StoreUnavailable("The connection was lost."), StoreError("LISTEN is not permitted.")],
    ids=["swallowed", "lost", "refused"],
)
async def test_a_node_without_notifications_polls_more_often(
    error: StoreError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "LOOK_EVERY", 3600.0)
    node = Node(Deaf(error), "one")
    async with running(node):
        for _ in range(3):
            await node.woken()

        assert node.signals.is_deaf
    assert signals.DEAF_LOOK_EVERY <= 0.5
