"""A gateway client that repeats a create gets the first one's outcome, and pays once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from harness.fake_kling import FakeKling, no_response, refusal
from harness.logs import capture_logs
from harness.submitted_tasks import CERTAIN_AFTER
from harness.task_system import JOB, IdleClock, TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import Conflict, KeyReused, KlingUncertain, StoreUnavailable
from receiver.domain.model import Generation, Task, TaskState
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH
from receiver.kling.protocol import parse_status
from receiver.submission.request import Caller, TaskMetadata

NEW = "text-to-video/kling-3.0-turbo"


async def create(
    system: TaskSystem,
    *,
    key: str | None = None,
    client: str = "a",
    has_left: bool = False,
    path: str = "images/multi-image2image",
    prompt: str = "a cat",
) -> KlingResponse:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    caller = Caller(client=client, key=key, has_left=lambda: has_left)
    body = json.dumps(JOB | {"prompt": prompt}).encode()
    return await system.gateway_creates.submit_now(endpoint, body, TaskMetadata(), NO_PASS_THROUGH, caller)


async def begin(system: TaskSystem, **given: object) -> "asyncio.Task[KlingResponse]":
    """Begin a create that Kling has received and not answered."""
    system.kling.create_gate = system.kling.create_gate or asyncio.Event()
    before = len(system.kling.create_ids)
    creating = asyncio.create_task(create(system, **given))  # type: ignore[arg-type] # the names of create
    await wait_until(lambda: len(system.kling.create_ids) > before)
    return creating


def answer_now(system: TaskSystem) -> None:
    """Let Kling answer what it has received."""
    assert system.kling.create_gate is not None
    system.kling.create_gate.set()


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_in_flight_waits_for_the_first_answer(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await begin(system, key=key, has_left=True)
        with capture_logs() as logs:
            repeats = [asyncio.create_task(create(system, key=key)) for _ in range(2)]
            await wait_until(lambda: [line["event"] for line in logs].count("create.repeated") == 2)
        answer_now(system)

        answers = [(await each).body for each in (first, *repeats)]

        assert len(system.kling.create_ids) == 1
        assert len(set(answers)) == 1


async def test_two_concurrent_equal_creates_are_two_tasks(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await begin(system)
        second = await begin(system)
        answer_now(system)
        await asyncio.gather(first, second)

        assert len(system.kling.create_ids) == 2


async def test_an_equal_create_a_second_later_is_a_repeat_although_the_first_client_still_waits(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await begin(system)
        await system.advance(1)
        with capture_logs() as logs:
            second = asyncio.create_task(create(system))
            await wait_until(lambda: "create.repeated" in [line["event"] for line in logs])
        answer_now(system)

        assert (await first).body == (await second).body
        assert len(system.kling.create_ids) == 1


async def test_an_undelivered_answer_goes_to_the_next_equal_create_once(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        lost = await create(system, has_left=True)
        repeat = await create(system)
        another = await create(system)

        assert lost.body == repeat.body != another.body
        assert len(system.kling.create_ids) == 2


@pytest.mark.parametrize("other", [{"client": "b"}, {"prompt": "a dog"}, {"key": "k"}, {"path": NEW}])
async def test_another_client_body_or_endpoint_is_not_a_repeat(tmp_path: Path, other: dict[str, str]) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await create(system, has_left=True)
        await create(system, **other)  # type: ignore[arg-type] # the names of create

        assert len(system.kling.create_ids) == 2


async def test_an_undelivered_answer_expires(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await create(system, has_left=True)
        await system.advance(601, step=30)
        await create(system)

        assert len(system.kling.create_ids) == 2


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_after_a_504_gets_the_task_that_kling_created(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        with pytest.raises(KlingUncertain):
            await create(system, key=key)
        repeat = asyncio.create_task(create(system, key=key))
        await system.advance(3)  # the look-up after one second ends the wait

        report = parse_status((await repeat).body)

        assert report.kling_id == "k1"
        assert len(system.kling.create_ids) == 1


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_after_a_504_is_sent_if_kling_created_no_task(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        with pytest.raises(KlingUncertain) as lost:
            await create(system, key=key)
        early = asyncio.create_task(create(system, key=key))
        system.waiting_clients = 1
        await system.advance(30)
        system.waiting_clients = 0  # its wait, which began with the first step, ends after 30 s
        await system.advance(2)
        with pytest.raises(KlingUncertain, match="not sent again") as still_lost:
            await early
        await system.advance(CERTAIN_AFTER)

        answer = await create(system, key=key)

        assert still_lost.value.external_task_id == lost.value.external_task_id
        assert parse_status(answer.body).kling_id == "k1"
        assert len(system.kling.create_ids) == 2


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_of_a_refused_create_is_sent(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [refusal(429, 1303)]
        await create(system, key=key, has_left=True)

        answer = await create(system, key=key)

        assert answer.error is None
        assert len(system.kling.create_ids) == 2


async def test_a_known_key_always_returns_the_first_answer(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        answers = {(await create(system, key="order-17", client=client)).body for client in "aab"}

        assert len(answers) == len(system.kling.create_ids) == 1


async def test_a_known_key_with_another_body_is_refused(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await create(system, key="order-17")
        (task,) = (await system.store.catalog.tasks()).items

        with pytest.raises(KeyReused, match=f"'order-17' belongs to task {task.id}") as refused:
            await create(system, key="order-17", prompt="a dog")

        assert refused.value.task_id == task.id
        assert len(system.kling.create_ids) == 1


@pytest.mark.parametrize("path", ["images/multi-image2image", NEW])
async def test_a_key_holds_across_a_restart(tmp_path: Path, path: str) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        first = parse_status((await create(system, key="order-17", path=path)).body)

    async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
        again = await create(system, key="order-17", path=path)
        with pytest.raises(KeyReused):
            await create(system, key="order-17", path=path, prompt="a dog")

    report = parse_status(again.body)
    assert (report.kling_id, report.state) == (first.kling_id, TaskState.SUBMITTED)
    assert report.external_task_id == kling.create_ids[0]
    assert report.generation is (Generation.NEW if path == NEW else Generation.LEGACY)
    assert (again.status, len(kling.create_ids)) == (200, 1)


async def test_a_repeat_waits_for_a_first_create_that_the_store_has_not_stored_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        stored, waiting = asyncio.Event(), 0
        add = system.store.tasks.add

        async def add_slowly(*args: Any, **named: Any) -> Task:
            nonlocal waiting
            waiting += 1
            await stored.wait()
            return await add(*args, **named)

        monkeypatch.setattr(system.store.tasks, "add", add_slowly)
        first = asyncio.create_task(create(system, has_left=True))
        await wait_until(lambda: waiting > 0)
        repeat = asyncio.create_task(create(system))
        await asyncio.sleep(0.01)
        stored.set()

        assert (await first).body == (await repeat).body
        assert len(system.kling.create_ids) == 1


async def test_a_repeat_of_a_create_that_was_not_stored_is_a_new_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        stored, waiting = asyncio.Event(), 0

        async def fail(*_args: Any, **_named: Any) -> Task:
            nonlocal waiting
            waiting += 1
            await stored.wait()
            raise StoreUnavailable("The disk is almost full.")

        with monkeypatch.context() as broken:
            broken.setattr(system.store.tasks, "add", fail)
            first = asyncio.create_task(create(system, has_left=True))
            await wait_until(lambda: waiting > 0)
        repeat = asyncio.create_task(create(system))
        stored.set()

        with pytest.raises(StoreUnavailable):
            await first
        assert (await repeat).status == 200
        assert len(system.kling.create_ids) == 1


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_repeats_that_wait_for_a_create_that_kling_refuses_make_one_task(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [refusal(429, 1303)]
        first = await begin(system, key=key, has_left=True)
        with capture_logs() as logs:
            repeats = [asyncio.create_task(create(system, key=key)) for _ in range(3)]
            await wait_until(lambda: [line["event"] for line in logs].count("create.repeated") == 3)
        answer_now(system)

        await first
        assert len({answer.body for answer in await asyncio.gather(*repeats)}) == 1
        assert len(system.kling.tasks) == 1


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_client_that_has_left_is_no_reason_to_send_a_refused_create_again(
    tmp_path: Path, key: str | None
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [refusal(429, 1303)]
        first = await begin(system, key=key, has_left=True)
        with capture_logs() as logs:
            left = asyncio.create_task(create(system, key=key, has_left=True))
            await wait_until(lambda: "create.repeated" in [line["event"] for line in logs])
        answer_now(system)

        await first
        with pytest.raises(Conflict, match="this client has left"):
            await left
        assert system.kling.tasks == {}


@pytest.mark.parametrize("key", [None, "order-17"])
async def test_a_repeat_at_once_after_our_504_is_no_second_task(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        with pytest.raises(KlingUncertain):
            await create(system, key=key)

        repeat = asyncio.create_task(create(system, key=key))
        system.waiting_clients += 1
        await system.settle()
        system.waiting_clients -= 1
        await system.advance(5)

        assert parse_status((await repeat).body).kling_id == "k1"
        assert len(system.kling.create_ids) == 1
