"""Calls and notifications between two nodes on a real database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from harness.clock import FakeClock
from harness.waiting import wait_until

from receiver.domain.clock import Ids, SystemClock
from receiver.domain.duties import Duty, Tenure
from receiver.domain.errors import (
    CallLost,
    Conflict,
    DutyLost,
    KeyReused,
    KlingUncertain,
    ReceiverError,
    StoreUnavailable,
)
from receiver.domain.notifier import Notifiers
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.service.nodes.call_codec import encode_response
from receiver.service.nodes.calls import MAX_SILENCE, CallServer, NodeCalls, RemoteCaller
from receiver.service.nodes.remote_services import CREATE, NodeCreates
from receiver.service.nodes.signals import NodeSignals
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    opened = await PostgresStore.open(Address(url=postgres_url))
    async with contextlib.aclosing(opened):
        yield opened


class Holder:
    """The node that does the duty ``kling``. Calls of the kind ``wait`` are answered when their caller has left."""

    def __init__(self, store: PostgresStore) -> None:
        self.served: list[bytes] = []
        self.error: ReceiverError | None = None
        self.stop = asyncio.Event()
        handlers = {"echo": self.echo, "wait": self.wait}
        notifier = Notifiers().calls
        self.server = CallServer(
            store.between_nodes.calls, Duty.KLING, handlers, instance="a", notifier=notifier, clock=SystemClock()
        )

    async def echo(self, arguments: bytes, _caller: RemoteCaller) -> bytes:
        self.served.append(arguments)
        if self.error is not None:
            raise self.error
        return arguments

    async def wait(self, arguments: bytes, caller: RemoteCaller) -> bytes:
        self.served.append(arguments)
        await wait_until(lambda: caller.has_left() or caller.is_stopping())
        self.served.append(b"has left")
        return b""


@pytest.fixture
async def holder(store: PostgresStore) -> AsyncIterator[Holder]:
    holder = Holder(store)
    running = asyncio.create_task(holder.server.run(holder.stop))
    yield holder
    holder.stop.set()
    await running


def calls_of(store: PostgresStore, *, holder: str = "a", clock: FakeClock | None = None) -> NodeCalls:
    used = clock or SystemClock()
    return NodeCalls(
        store.between_nodes.calls,
        holder_of=lambda _duty: holder,
        notifier=Notifiers().calls,
        clock=used,
        ids=Ids(SystemClock()),
    )


async def test_a_call_is_answered_by_the_holder_of_the_duty(store: PostgresStore, holder: Holder) -> None:
    answer = await calls_of(store).call(Duty.KLING, "echo", b"\x00 a body\n")

    assert answer == b"\x00 a body\n"
    assert holder.served == [b"\x00 a body\n"]


@pytest.mark.parametrize(
    "error",
    [
        Conflict("It is closed.", remedy="Open it."),
        KeyReused("Another body.", task_id="tsk_1"),
        KlingUncertain("No answer.", external_task_id="own"),
    ],
    ids=lambda error: error.code,
)
async def test_an_error_reaches_the_caller_as_it_is(store: PostgresStore, holder: Holder, error: ReceiverError) -> None:
    holder.error = error

    with pytest.raises(type(error)) as raised:
        await calls_of(store).call(Duty.KLING, "echo", b"")

    assert vars(raised.value) == vars(error)


@pytest.mark.usefixtures("holder")
async def test_a_call_of_an_unknown_kind_gets_an_error_at_once(store: PostgresStore) -> None:
    with pytest.raises(CallLost, match="cannot serve 'new'"):
        await calls_of(store).call(Duty.KLING, "new", b"")


async def test_an_unexpected_error_of_the_holder_loses_the_call(store: PostgresStore, holder: Holder) -> None:
    holder.error = ReceiverError("a defect")

    with pytest.raises(CallLost):
        await calls_of(store).call(Duty.KLING, "echo", b"")


async def test_a_call_that_no_node_takes_is_refused_once_its_caller_has_left(store: PostgresStore) -> None:
    with pytest.raises(StoreUnavailable, match="No node does the duty 'kling' now"):
        await calls_of(store).call(Duty.KLING, "echo", b"", has_left=lambda: True)


async def test_a_holder_notices_that_a_caller_has_left(store: PostgresStore, holder: Holder) -> None:
    with pytest.raises(CallLost, match="given up"):
        await calls_of(store).call(Duty.KLING, "wait", b"1", has_left=lambda: bool(holder.served))

    await wait_until(lambda: holder.served == [b"1", b"has left"])


async def test_the_outcome_of_a_call_is_unknown_if_its_server_loses_the_duty(
    store: PostgresStore, holder: Holder
) -> None:
    clock = FakeClock()
    calling = asyncio.create_task(calls_of(store, holder="b", clock=clock).call(Duty.KLING, "wait", b"1"))
    await wait_until(lambda: bool(holder.served))

    while not calling.done():
        clock.advance(MAX_SILENCE)
        await asyncio.sleep(0.05)

    with pytest.raises(CallLost, match="has lost its duty"):
        await calling


async def test_the_answer_of_a_new_holder_is_returned_at_once_although_its_node_has_not_noticed_the_takeover(
    store: PostgresStore, holder: Holder
) -> None:
    clock = FakeClock()
    began = clock.monotonic()
    calling = asyncio.create_task(calls_of(store, holder="b", clock=clock).call(Duty.KLING, "wait", b"1"))
    await wait_until(lambda: bool(holder.served))

    clock.advance(MAX_SILENCE / 2)
    holder.stop.set()  # lets it answer
    while not calling.done():
        clock.advance(MAX_SILENCE / 100)
        await asyncio.sleep(0.05)

    assert await calling == b""
    assert timedelta(seconds=clock.monotonic() - began) < MAX_SILENCE


class LostCreates:
    """Creates of a node that has just lost the duty."""

    async def submit_now(self, *_: object) -> KlingResponse:
        raise DutyLost("Another node does it.")


async def test_a_create_that_a_node_may_no_longer_send_goes_to_the_holder(store: PostgresStore, holder: Holder) -> None:
    sent = KlingResponse(status=200, headers={}, body=b"{}")

    async def create(arguments: bytes, _caller: RemoteCaller) -> bytes:
        holder.served.append(arguments)
        return encode_response(sent)

    holder.server._handlers = {CREATE: create}
    tenure = Tenure(lambda: 0.0)
    tenure.extend(1.0)
    endpoint = endpoints.resolve("images/multi-image2image")
    assert endpoint is not None

    answer = await NodeCreates(LostCreates(), calls_of(store), tenure).submit_now(endpoint, b"{}")

    assert answer == sent
    assert len(holder.served) == 1


async def test_a_commit_on_one_node_wakes_the_others_alone(store: PostgresStore) -> None:
    here, there, stop = Notifiers(), Notifiers(), asyncio.Event()
    signals = [
        NodeSignals(store.between_nodes.signals, notifiers, name, has_others=lambda: True)
        for name, notifiers in (("a", here), ("b", there))
    ]
    own, tasks, events = here.tasks.subscribe(), there.tasks.subscribe(), there.events.subscribe()
    running = [asyncio.create_task(each.run(stop)) for each in signals]
    woken = []
    for _ in range(100):  # until both listen
        for wake in (own, tasks, events):
            wake.clear()
        here.tasks.notify()
        own.clear()
        await asyncio.sleep(0.06)
        woken = [own.is_set(), tasks.is_set(), events.is_set()]
        if woken == [False, True, False]:
            break

    assert woken == [False, True, False]
    stop.set()
    await asyncio.gather(*running)


async def test_a_node_polls_if_notifications_are_lost() -> None:
    class Deaf:
        async def notify(self, payload: str) -> None: ...

        def listening(self, _receive: object) -> contextlib.AbstractAsyncContextManager[object]:
            raise StoreUnavailable("LISTEN is not permitted.")

    notifiers, stop = Notifiers(), asyncio.Event()
    wake = notifiers.deliveries.subscribe()
    running = asyncio.create_task(NodeSignals(Deaf(), notifiers, "a", has_others=lambda: True).run(stop))  # type: ignore[arg-type]  # it lends no connection

    await wait_until(wake.is_set)

    stop.set()
    await running
