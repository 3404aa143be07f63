"""Trouble with the account stops what it concerns and nothing else, is told once, and ends by itself when mended."""

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from harness.clock import FakeClock
from harness.fake_kling import FakeKling, refusal
from harness.task_system import JOB, IdleClock, TaskSystem, a_task_system

from receiver.domain.errors import KlingError
from receiver.domain.model import Json, Task, TaskState
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough

IMAGE, FILM, SOUND = "images/multi-image2image", "videos/text2video", "audio/text-to-audio"
Refuses = Callable[[str, Json], bool]


class RefusingKling(FakeKling):
    """Refuses with ``error`` those creates of which ``refuses`` says so, by endpoint and body."""

    def __init__(self, clock: FakeClock, error: KlingError, refuses: Refuses) -> None:
        super().__init__(clock)
        self.error = error
        self.refuses = refuses

    async def create(
        self, endpoint: str, content: bytes, *, pass_through: PassThrough = NO_PASS_THROUGH, **more: Any
    ) -> KlingResponse:
        self.create_fault = self.error if self.refuses(endpoint, json.loads(content)) else None
        return await super().create(endpoint, content, pass_through=pass_through, **more)


@contextlib.asynccontextmanager
async def a_refusing_system(folder: Path, error: KlingError, refuses: Refuses) -> AsyncIterator[TaskSystem]:
    clock = IdleClock()
    async with (
        a_task_system(folder, kling=RefusingKling(clock, error, refuses), clock=clock) as system,
        system.running(),
    ):
        yield system


async def queue(system: TaskSystem, count: int, endpoint: str, **body: object) -> list[Task]:
    return [await system.submit(endpoint=endpoint, body=JOB | body) for _ in range(count)]


async def states(system: TaskSystem, tasks: list[Task]) -> Counter[TaskState]:
    return Counter([(await system.task(task.id)).state for task in tasks])


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (401, 1000, "key"), (401, 1001, "key"), (401, 1002, "region"), (429, 1100, "blocked"),
        (429, 1101, "arrears"), (429, 1304, "address"),
    ],
)  # fmt: skip
async def test_an_account_issue_stops_submits_and_raises_one_alert(
    tmp_path: Path, status: int, code: int, word: str
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        before = await system.submit()
        system.kling.create_fault = refusal(status, code, "sorry")
        waiting = await queue(system, 10, IMAGE) + await queue(system, 10, FILM) + await queue(system, 5, SOUND)
        kling_task = system.kling.tasks["k1"]
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(1800, step=10)

        assert (await system.task(before.id)).state is TaskState.SUCCEED
        assert await states(system, waiting) == {TaskState.QUEUED: 25}
        assert len(system.kling.create_ids) <= 1 + 1800 / 60 + 10
        (alert,) = await system.alerts("account")
        assert (alert["kling_code"], alert["concerns"]) == (code, {"reach": "account", "name": ""})
        assert word in alert["remedy"]
        assert "by itself once the issue is fixed" in alert["remedy"]

        system.kling.create_fault = None
        await system.advance(125, step=5)
        assert await states(system, waiting) == {TaskState.SUBMITTED: 25}
        (recovered,) = await system.alerts("account_recovered")
        assert recovered["concerns"] == alert["concerns"]


async def test_an_exhausted_pack_keeps_its_order_and_blocks_no_other(tmp_path: Path) -> None:
    async with a_refusing_system(
        tmp_path, refusal(429, 1102, "used up"), lambda endpoint, _: endpoint == FILM
    ) as system:
        films = await queue(system, 20, FILM)
        images, sounds = await queue(system, 10, IMAGE), await queue(system, 5, SOUND)
        await system.advance(1800, step=10)

        assert await states(system, films) == {TaskState.QUEUED: 20}
        assert await states(system, images) == {TaskState.SUBMITTED: 10}
        assert await states(system, sounds) == {TaskState.SUBMITTED: 5}
        assert len(system.kling.create_ids) - 15 <= 1800 / 60 + 10
        assert "used up" in (await system.task(films[-1].id)).message
        (alert,) = await system.alerts("account")
        assert alert["concerns"] == {"reach": "pack", "name": "video"}

        system.kling.refuses, tried = lambda *_: False, len(system.kling.create_ids)
        await system.advance(65, step=5)
        assert await states(system, films) == {TaskState.SUBMITTED: 20}
        assert system.kling.create_ids[tried:] == [task.id for task in films]
        assert len(await system.alerts("account_recovered")) == len(await system.alerts("account")) == 1


async def test_a_missing_permission_stops_only_its_model(tmp_path: Path) -> None:
    async with a_refusing_system(
        tmp_path, refusal(403, 1103, "no right"), lambda _, body: body.get("model_name") == "kling-v9"
    ) as system:
        first = await queue(system, 20, FILM, model_name="kling-v9")
        old, images = await queue(system, 10, FILM, model_name="kling-v1"), await queue(system, 5, IMAGE)
        await system.advance(1800, step=10)

        assert await states(system, first) == {TaskState.QUEUED: 20}
        assert await states(system, old) == {TaskState.SUBMITTED: 10}
        assert await states(system, images) == {TaskState.SUBMITTED: 5}
        assert len(system.kling.create_ids) - 15 <= 1800 / 60 + 10
        assert "no right" in (await system.task(first[-1].id)).message
        (alert,) = await system.alerts("account")
        assert alert["concerns"] == {"reach": "resource", "name": f"{FILM} kling-v9"}
        assert "kling-v9" in alert["message"]

        system.kling.refuses = lambda *_: False
        await system.advance(65, step=5)
        assert await states(system, first) == {TaskState.SUBMITTED: 20}
        assert len(await system.alerts("account_recovered")) == len(await system.alerts("account")) == 1


async def test_a_403_without_klings_code_rejects_the_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(403, None, "forbidden")

        refused = await system.submit()

        assert refused.state is TaskState.REJECTED
        assert await system.alerts("account") == []


async def test_the_gateway_never_queues_and_its_errors_count(tmp_path: Path) -> None:
    image = endpoints.resolve(IMAGE)
    assert image is not None
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(429, 1102)
        answers = [await system.gateway_creates.submit_now(image, json.dumps(JOB).encode()) for _ in range(3)]
        assert [answer.error is not None for answer in answers] == [True] * 3
        assert len(await system.alerts("account")) == 1
        assert {task.state for task in (await system.store.catalog.tasks()).items} == {TaskState.REJECTED}

        waits = await system.submit(endpoint=IMAGE)
        assert waits.state is TaskState.QUEUED
        system.kling.create_fault = None
        answer = await system.gateway_creates.submit_now(image, json.dumps(JOB).encode())
        await system.settle()
        assert answer.error is None
        assert (await system.task(waits.id)).state is TaskState.SUBMITTED
        assert len(await system.alerts("account_recovered")) == 1


@pytest.mark.parametrize(("status", "code"), [(401, 1002), (429, 1101), (429, 1102), (403, 1103)])
async def test_restarts_during_an_issue_probe_once_and_repeat_no_alert(tmp_path: Path, status: int, code: int) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(status, code)
        waiting = await queue(system, 30, IMAGE)
        await system.advance(60, step=5)

    kling, tried = system.kling, len(system.kling.create_ids)
    for _ in range(5):
        async with a_task_system(tmp_path, kling=kling, clock=system.clock) as system, system.running():
            await system.advance(4)
            assert len(kling.create_ids) - tried <= 3
            tried = len(kling.create_ids)
            assert len(await system.alerts("account")) == 1

    kling.create_fault = None
    async with a_task_system(tmp_path, kling=kling, clock=system.clock) as system, system.running():
        await system.advance(130, step=5)
        assert await states(system, waiting) == {TaskState.SUBMITTED: 30}
        assert (len(await system.alerts("account")), len(await system.alerts("account_recovered"))) == (1, 1)


async def test_restarts_during_a_poll_issue_raise_one_alert_and_stop_no_submit(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit()
        system.kling.query_fault = refusal(401, 1002)
        await system.advance(300, step=10)

    async with a_task_system(tmp_path, kling=system.kling, clock=system.clock) as system, system.running():
        await system.advance(300, step=10)
        assert len(await system.alerts("account")) == 1
        assert (await system.submit()).state is TaskState.SUBMITTED


async def test_another_reason_raises_another_alert(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(429, 1304)
        await system.submit()
        await system.advance(60, step=5)
        system.kling.create_fault = refusal(429, 1101)
        await system.advance(300, step=5)

        assert [alert["kling_code"] for alert in await system.alerts("account")] == [1304, 1101]
