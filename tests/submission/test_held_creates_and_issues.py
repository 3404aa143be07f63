"""The slots hold for gateway creates that may wait, also while Kling has an issue with the account."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from harness.fake_kling import FakeKling, refusal
from harness.task_system import JOB, IdleClock, TaskSystem, a_task_system
from harness.waiting import let_loop_run, wait_until

from receiver.domain.errors import KlingError
from receiver.domain.model import TaskState
from receiver.domain.secret import Secret
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH
from receiver.settings import GatewaySettings, KlingSettings, SlotSettings
from receiver.submission.request import Caller, TaskMetadata

SLOTS = 2
IN_ARREARS = refusal(429, 1101, "in arrears")
USED_UP = refusal(429, 1102, "used up")
NOT_PERMITTED = refusal(403, 1103, "not permitted")
ISSUES = pytest.mark.parametrize("issue", [IN_ARREARS, USED_UP, NOT_PERMITTED], ids=["account", "pack", "model"])


async def create(system: TaskSystem, prompt: str, *, n: int = 1) -> KlingResponse:
    endpoint = endpoints.resolve("images/multi-image2image")
    assert endpoint is not None
    body = json.dumps(JOB | {"prompt": prompt, "n": n}).encode()
    caller = Caller(client="a")
    return await system.gateway_creates.submit_now(endpoint, body, TaskMetadata(), NO_PASS_THROUGH, caller)


@contextlib.asynccontextmanager
async def with_an_issue(folder: Path, issue: KlingError) -> AsyncIterator[TaskSystem]:
    """Run a system with two slots, one of them in use, that has just met an issue. It has ended since."""
    clock = IdleClock()
    kling = FakeKling(clock)
    settings = KlingSettings(api_key=Secret("key"), slots=SlotSettings(image=SLOTS))
    gateway = GatewaySettings(wait=timedelta(seconds=30))
    async with (
        a_task_system(folder, kling=kling, clock=clock, kling_settings=settings, gateway=gateway) as system,
        system.running(),
    ):
        await create(system, "the first")
        kling.create_faults = [issue]
        await create(system, "the second")
        yield system


@ISSUES
async def test_creates_during_an_issue_take_no_more_than_the_free_slots(tmp_path: Path, issue: KlingError) -> None:
    async with with_an_issue(tmp_path, issue) as system:
        creating = [asyncio.create_task(create(system, f"later {number}")) for number in range(4)]
        await wait_until(lambda: any(each.done() for each in creating))
        await until_ended_or_queued(system, creating)

        assert [each.done() for each in creating].count(True) == 1
        assert len(system.kling.tasks) == SLOTS
        for each in creating:
            each.cancel()
        await asyncio.gather(*creating, return_exceptions=True)


@ISSUES
async def test_a_create_that_meets_an_issue_gets_klings_answer_at_once(tmp_path: Path, issue: KlingError) -> None:
    async with with_an_issue(tmp_path, issue) as system:
        system.kling.create_faults = [issue]

        answer = await asyncio.wait_for(create(system, "another"), 5)

        assert isinstance(answer.error, KlingError)
        assert answer.error.code == issue.code


async def test_the_lease_of_a_create_begins_when_it_starts_not_when_it_arrives(tmp_path: Path) -> None:
    async with with_an_issue(tmp_path, IN_ARREARS) as system:
        async with system.submitter._admission.queue_lock:
            creating = asyncio.create_task(create(system, "another"))
            await let_loop_run()
            system.clock.advance(timedelta(seconds=10))
        started_at = system.clock.now()
        await creating

        tasks = (await system.store.catalog.tasks()).items
        newest = max(tasks, key=lambda task: task.created_at)
        assert newest.started_at == started_at
        assert newest.created_at == started_at - timedelta(seconds=10)


async def test_a_create_that_waits_too_long_because_of_an_issue_is_told_of_it(tmp_path: Path) -> None:
    async with with_an_issue(tmp_path, USED_UP) as system:
        creating = asyncio.create_task(create(system, "larger", n=SLOTS))
        await until_ended_or_queued(system, [creating])
        system.waiting_clients = 1
        await system.advance(29)
        system.waiting_clients = 0
        await system.advance(2)

        message = json.loads((await creating).body)["message"]

        assert "could not be sent within 30s" in message
        assert "used up" in message


async def until_ended_or_queued(system: TaskSystem, creating: "list[asyncio.Task[KlingResponse]]") -> None:
    """Return when each create has ended or waits in the queue."""

    async def is_over() -> bool:
        queued = (await system.store.catalog.tasks(states=[TaskState.QUEUED])).items
        return len(queued) + sum(each.done() for each in creating) == len(creating)

    await wait_until(is_over)
