"""A gateway create that meets a full account waits for a slot, in order with the queue, if `[gateway] wait` is set."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from harness.fake_kling import FakeKling, refusal
from harness.task_system import JOB, IdleClock, TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import Conflict, KlingError, ServiceStopping, StoreUnavailable
from receiver.domain.model import Task, TaskState
from receiver.domain.secret import Secret
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH
from receiver.settings import GatewaySettings, KlingSettings, SlotSettings
from receiver.submission import held_creates
from receiver.submission.request import Caller, TaskMetadata

T = TypeVar("T")
IMAGES = endpoints.resolve("images/multi-image2image")
ONE_SLOT = KlingSettings(api_key=Secret("key"), slots=SlotSettings(image=1))
NO_LIMIT = KlingSettings(api_key=Secret("key"))


@dataclass
class Client:
    """A gateway client, which may leave."""

    system: TaskSystem
    key: str | None = None
    has_left: bool = False
    is_stopping: bool = False

    async def create(self, prompt: str = "a cat") -> KlingResponse:
        assert IMAGES is not None
        caller = Caller(client="a", key=self.key, has_left=lambda: self.has_left, is_stopping=lambda: self.is_stopping)
        body = json.dumps(JOB | {"prompt": prompt}).encode()
        return await self.system.gateway_creates.submit_now(IMAGES, body, TaskMetadata(), NO_PASS_THROUGH, caller)

    async def wait(self, prompt: str = "a cat") -> "asyncio.Task[KlingResponse]":
        """Begin a create that has to wait, and return once it waits."""
        waiting = len(await queued(self.system)) + (self.key is None or not await has_key(self.system, self.key))
        creating = asyncio.create_task(self.create(prompt))

        async def is_queued() -> bool:
            return creating.done() or len(await queued(self.system)) >= waiting

        await wait_until(is_queued)
        return await self.waits(creating)

    async def repeat(self) -> "asyncio.Task[KlingResponse]":
        """Begin a create that repeats a waiting one, and return once it waits too."""
        return await self.waits(asyncio.create_task(self.create()))

    async def waits(self, creating: "asyncio.Task[KlingResponse]") -> "asyncio.Task[KlingResponse]":
        self.system.waiting_clients += 1
        creating.add_done_callback(lambda _: self.leave_clock())
        await self.system.settle()
        return creating

    def leave_clock(self) -> None:
        self.system.waiting_clients -= 1


async def queued(system: TaskSystem) -> list[Task]:
    return list((await system.store.catalog.tasks(states=[TaskState.QUEUED])).items)


async def has_key(system: TaskSystem, key: str) -> bool:
    return any(task.idempotency_key == f"gateway:{key}" for task in await queued(system))


@contextlib.asynccontextmanager
async def a_full_account(
    folder: Path, *, settings: KlingSettings = ONE_SLOT, wait: int = 30
) -> AsyncIterator[TaskSystem]:
    """Run a system whose only slot is in use, with clients that may wait."""
    clock = IdleClock()
    kling = FakeKling(clock)
    kling.slot_limit = 1
    gateway = GatewaySettings(wait=timedelta(seconds=wait))
    async with (
        a_task_system(folder, kling=kling, clock=clock, kling_settings=settings, gateway=gateway) as system,
        system.running(),
    ):
        await Client(system).create("the first")
        yield system


async def free_slot(system: TaskSystem) -> None:
    """Let the running task end; Kling calls back."""
    kling: FakeKling = system.kling
    (running,) = [task for task in kling.tasks.values() if task.status == "submitted"]
    body = kling.finish_task(running)
    await system.push(running.token, body)


async def a_full_disk(*_: object) -> bool:
    """Fail as a write does when the disk is full."""
    raise StoreUnavailable("The disk is full.")


async def soon(system: TaskSystem, answer: Awaitable[T], *, seconds: float = 5) -> T:
    """Advance the clock until an answer is there."""
    asking = asyncio.ensure_future(answer)
    for _ in range(int(seconds * 2)):
        if asking.done():
            break
        system.clock.advance(timedelta(seconds=0.5))
        await asyncio.sleep(0.02)
    return await asyncio.wait_for(asking, 5)


@pytest.mark.parametrize("settings", [ONE_SLOT, NO_LIMIT], ids=["our limit", "kling's 1303"])
async def test_a_create_waits_until_a_slot_frees(tmp_path: Path, settings: KlingSettings) -> None:
    async with a_full_account(tmp_path, settings=settings) as system:
        waiting = await Client(system).wait()
        await free_slot(system)

        answer = await soon(system, waiting)

        assert (answer.status, len(system.kling.tasks)) == (200, 2)
        assert json.loads(answer.body)["task_id"] == "k2"


@pytest.mark.parametrize("settings", [ONE_SLOT, NO_LIMIT], ids=["our limit", "kling's 1303"])
async def test_a_create_that_waited_long_enough_is_answered_1303(tmp_path: Path, settings: KlingSettings) -> None:
    async with a_full_account(tmp_path, settings=settings) as system:
        waiting = await Client(system).wait()
        await system.advance(29)
        assert not waiting.done()

        answer = await soon(system, waiting)

        assert isinstance(answer.error, KlingError)
        assert answer.error.code == "kling_slots_full"
        if settings is ONE_SLOT:  # otherwise Kling's own answer goes back
            assert answer.status == 429
            assert json.loads(answer.body)["code"] == 1303
            assert "within 30s" in json.loads(answer.body)["message"]
        await free_slot(system)
        await system.advance(120, step=10)
        assert len(system.kling.tasks) == 1
        assert await queued(system) == []


async def test_a_waiting_create_keeps_its_order_in_the_queue(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        before = await system.submit()
        waiting = await Client(system).wait()
        after = await system.submit()
        for _ in range(2):
            await free_slot(system)
            await system.advance(2)

        await soon(system, waiting)

        sent = system.kling.create_ids[1:]
        assert sent[0] == before.id
        assert after.id not in sent
        assert len(sent) == 2


async def test_a_client_that_disconnects_while_it_waits_pays_nothing(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        client = Client(system)
        waiting = await client.wait()
        client.has_left = True
        await free_slot(system)  # before the service has looked whether the client is still there

        await soon(system, waiting)
        await system.advance(5)

        assert len(system.kling.create_ids) == 1
        assert await queued(system) == []


async def test_a_cancelled_request_is_not_sent(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        waiting = await Client(system).wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await free_slot(system)

        await system.advance(5)

        assert len(system.kling.create_ids) == 1
        assert await queued(system) == []


async def test_a_stop_answers_a_waiting_client_that_nothing_was_sent(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        client = Client(system)
        waiting = await client.wait()
        client.is_stopping = True

        with pytest.raises(ServiceStopping, match="It was not sent"):
            await soon(system, waiting)

        assert len(system.kling.create_ids) == 1
        assert await queued(system) == []


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_joins_the_waiting_create_and_outlives_its_first_client(tmp_path: Path, key: str | None) -> None:
    async with a_full_account(tmp_path) as system:
        first, repeat = Client(system, key=key), Client(system, key=key)
        waiting = await first.wait()
        await system.advance(2)
        repeating = asyncio.create_task(repeat.create())
        system.waiting_clients += 1
        await asyncio.sleep(0.05)
        first.has_left = True
        await soon(system, waiting)
        assert len(await queued(system)) == 1
        await free_slot(system)

        answer = await soon(system, repeating)
        system.waiting_clients -= 1

        assert json.loads(answer.body)["task_id"] == "k2"
        assert len(system.kling.create_ids) == 2


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_joins_the_waiting_create_although_earlier_repeats_have_left(
    tmp_path: Path, key: str | None
) -> None:
    async with a_full_account(tmp_path) as system:
        clients = [Client(system, key=key) for _ in range(4)]
        creates = [await clients[0].wait()]
        await system.advance(2)
        creates += [await client.repeat() for client in clients[1:3]]
        for client, creating in zip(clients[:2], creates, strict=False):
            client.has_left = True
            await soon(system, asyncio.gather(creating, return_exceptions=True))
        creates.append(await clients[3].repeat())
        await free_slot(system)

        answers = await soon(system, asyncio.gather(*creates[2:]))

        assert [json.loads(answer.body)["task_id"] for answer in answers] == ["k2", "k2"]
        assert len(system.kling.create_ids) == 2


async def test_a_repeat_after_a_restart_is_a_new_create(tmp_path: Path) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    gateway = GatewaySettings(wait=timedelta(seconds=30))
    more = {"kling": kling, "clock": clock, "kling_settings": ONE_SLOT, "gateway": gateway}
    async with a_task_system(tmp_path, **more) as system:  # type: ignore[arg-type] # the names of its arguments
        await system.submit()
        asking = asyncio.create_task(Client(system, key="order-17").create())

        async def is_stored() -> bool:
            return await has_key(system, "order-17")

        await wait_until(is_stored)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async with a_task_system(tmp_path, **more) as system, system.running():  # type: ignore[arg-type] # as above
        assert await queued(system) == []
        await free_slot(system)
        answer = await soon(system, Client(system, key="order-17").create())

        assert json.loads(answer.body)["task_id"] == "k2"
        assert len(kling.create_ids) == 2


@pytest.mark.parametrize("limit", ["MAX_HELD", "MAX_HELD_BYTES"])
async def test_a_create_over_the_limit_of_waiting_ones_is_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(held_creates, limit, 1 if limit == "MAX_HELD" else 150)
    async with a_full_account(tmp_path) as system:
        client = Client(system)
        waiting = await client.wait()

        answer = await asyncio.wait_for(Client(system).create("another"), 5)

        assert answer.status == 429
        assert "already wait for one" in json.loads(answer.body)["message"]
        assert not waiting.done()
        client.has_left = True
        await soon(system, waiting)


async def test_an_operator_cancels_a_waiting_create(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        waiting = await Client(system).wait()
        (task,) = await queued(system)

        await system.submitter.cancel(task.id, reason="a mistake", actor="anna")

        with pytest.raises(Conflict, match="An operator cancelled"):
            await waiting


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_of_a_create_that_an_operator_cancelled_is_a_new_create(tmp_path: Path, key: str | None) -> None:
    async with a_full_account(tmp_path) as system:
        waiting = await Client(system, key=key).wait()
        (task,) = await queued(system)
        await system.submitter.cancel(task.id, reason="a mistake", actor="anna")
        await asyncio.gather(waiting, return_exceptions=True)
        await free_slot(system)

        answer = await soon(system, Client(system, key=key).create())

        assert json.loads(answer.body)["task_id"] == "k2"


async def test_a_refusal_other_than_1303_ends_the_wait(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        waiting = await Client(system).wait()
        system.kling.create_faults = [refusal(400, 1301, "unsafe")]
        await free_slot(system)

        answer = await soon(system, waiting)

        assert isinstance(answer.error, KlingError)
        assert answer.error.code == "kling_content"
        assert await queued(system) == []


async def test_a_create_does_not_wait_for_an_account_in_trouble(tmp_path: Path) -> None:
    async with a_full_account(tmp_path) as system:
        system.kling.create_fault = refusal(429, 1102, "used up")
        await free_slot(system)
        await system.advance(1)
        first = await asyncio.wait_for(Client(system).create("one"), 5)
        second = await asyncio.wait_for(Client(system).create("two"), 5)

        codes = [answer.error.code for answer in (first, second) if answer.error is not None]

        assert codes == ["kling_account", "kling_account"]
        assert await queued(system) == []


async def test_a_create_without_a_client_takes_no_room_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_creates, "MAX_HELD", 1)
    async with a_full_account(tmp_path) as system:
        client = Client(system)
        waiting = await client.wait()
        client.has_left = True
        with monkeypatch.context() as broken:
            broken.setattr(system.recorder, "withdraw", a_full_disk)
            with pytest.raises(StoreUnavailable):
                await soon(system, waiting)

            other = await Client(system).wait("a dog")

        assert not other.done()
        await free_slot(system)
        assert (await soon(system, other)).status == 200
