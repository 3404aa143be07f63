"""An internal error inside a create is like a lost answer: the task is looked up before the create is sent again."""

import asyncio
import json
from pathlib import Path

import pytest
from harness.submitted_tasks import CERTAIN_AFTER
from harness.task_system import JOB, TaskSystem, a_task_system

from receiver.domain.errors import KlingUncertain
from receiver.domain.model import TaskState
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH
from receiver.kling.protocol import parse_status
from receiver.submission.request import Caller, TaskMetadata

KEYS = pytest.mark.parametrize("key", [None, "order-17"])


async def create(system: TaskSystem, *, key: str | None = None) -> KlingResponse:
    endpoint = endpoints.resolve("images/multi-image2image")
    assert endpoint is not None
    caller = Caller(client="a", key=key)
    body = json.dumps(JOB).encode()
    return await system.gateway_creates.submit_now(endpoint, body, TaskMetadata(), NO_PASS_THROUGH, caller)


def a_fault() -> None:
    raise RuntimeError("a fault of ours")


@KEYS
async def test_a_repeat_after_an_internal_error_is_sent_if_kling_has_no_task(tmp_path: Path, key: str | None) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.on_open = a_fault
        with pytest.raises(RuntimeError):
            await create(system, key=key)
        system.kling.on_open = lambda: None
        await system.advance(CERTAIN_AFTER + 2)

        answer = await create(system, key=key)

        assert parse_status(answer.body).kling_id == "k1"
        assert len(system.kling.tasks) == 1


@KEYS
async def test_a_repeat_after_an_internal_error_gets_the_task_that_kling_created(
    tmp_path: Path, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        with monkeypatch.context() as broken:
            broken.setattr("harness.fake_kling._response", lambda _: a_fault())
            with pytest.raises(RuntimeError):
                await create(system, key=key)
        repeat = asyncio.create_task(create(system, key=key))
        await system.advance(3)  # the look-up after one second ends the wait

        assert parse_status((await repeat).body).kling_id == "k1"
        assert len(system.kling.create_ids) == 1


async def test_a_repeat_soon_after_an_internal_error_is_not_sent(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.on_open = a_fault
        with pytest.raises(RuntimeError):
            await create(system)
        system.kling.on_open = lambda: None
        repeat = asyncio.create_task(create(system))
        system.waiting_clients = 1
        await system.advance(30)
        system.waiting_clients = 0
        await system.advance(2)

        with pytest.raises(KlingUncertain, match="not sent again"):
            await repeat

        assert system.kling.create_ids == []


async def test_klings_answer_is_returned_although_an_internal_error_keeps_it_from_being_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        with monkeypatch.context() as broken:
            broken.setattr(system.recorder, "bind", lambda *_, **__: a_fault())
            answer = await create(system)

        await system.advance(CERTAIN_AFTER + 2)

        assert parse_status(answer.body).kling_id == "k1"
        assert [task.kling_id for task in (await system.store.catalog.tasks()).items] == ["k1"]
        assert len(system.kling.create_ids) == 1


async def test_a_queued_task_is_looked_up_after_an_internal_error(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.on_open = a_fault
        failed = await system.submit()
        system.kling.on_open = lambda: None
        await system.advance(CERTAIN_AFTER + 2)

        [task] = (await system.store.catalog.tasks()).items

        assert (failed.state, task.state) == (TaskState.SUBMITTING, TaskState.SUBMITTED)
        assert "internal error" in failed.message
        assert len(system.kling.create_ids) == 1
