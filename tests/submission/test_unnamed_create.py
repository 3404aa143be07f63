"""An endpoint never heard of may make no task at all: nothing is left behind, sent again or raised an alarm about."""

import json
from pathlib import Path
from typing import Any

import pytest
from harness.fake_kling import FakeKling, KlingTask, no_response
from harness.task_system import IdleClock, TaskSystem, a_task_system

from receiver.domain.errors import KlingError, KlingUncertain
from receiver.domain.model import StatusReport, Task, TaskState
from receiver.kling import endpoints, protocol
from receiver.kling.client import KlingResponse
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.submission.request import TaskMetadata

UNKNOWN_ENDPOINT = "general/something-new"
LISTED = "images/generations"
SPEECH_ANSWER = b'{"code":0,"message":"SUCCEED","request_id":"r","data":{"text":"a cat"}}'
SOUND = b"ID3\x03 no JSON"


class SynchronousKling(FakeKling):
    """A Kling that answers creates at once with what was asked for, and knows no task."""

    def __init__(self, clock: IdleClock, body: bytes = SPEECH_ANSWER) -> None:
        super().__init__(clock)
        self.body = body

    async def create(
        self, endpoint: str, content: bytes, *, pass_through: PassThrough = NO_PASS_THROUGH, **more: Any
    ) -> KlingResponse:
        del endpoint, pass_through, more
        self.create_ids.append(json.loads(content)["external_task_id"])
        self.last = content
        if self.create_fault is not None:
            raise self.create_fault
        if not self.body.startswith(b"{"):
            error = KlingUncertain("Kling answered HTTP 200 with a body that is not JSON.")
            return KlingResponse(status=200, headers={}, body=self.body, error=error)
        return KlingResponse(status=200, headers={}, body=self.body, report=protocol.parse_status(self.body))


async def submit_by_gateway(
    system: TaskSystem, path: str = UNKNOWN_ENDPOINT, **marks: Any
) -> tuple[KlingResponse, Task]:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    answer = await system.gateway_creates.submit_now(endpoint, b'{"prompt": "a cat"}', TaskMetadata(**marks))
    (task,) = (await system.store.catalog.tasks()).items
    return answer, task


@pytest.mark.parametrize("body", [SPEECH_ANSWER, SOUND], ids=["an object", "no JSON"])
async def test_a_gateway_client_has_its_answer_and_no_event_is_sent(tmp_path: Path, body: bytes) -> None:
    clock = IdleClock()
    async with (
        a_task_system(tmp_path, kling=(kling := SynchronousKling(clock, body)), clock=clock) as system,
        system.running(),
    ):
        answer, task = await submit_by_gateway(system)
        await system.advance(3 * 24 * 3600, step=3600)

        assert answer.body == body
        task = await system.task(task.id)
        assert (task.state, task.due_at) == (TaskState.AWAITING, None)
        assert "contains no task id" in task.message
        assert (len(kling.create_ids), kling.lookups, kling.queries) == (1, [], [])
        assert await system.event_types() == []
        assert await system.store.tasks.slots_in_use() == {}
        assert task.expires_at is not None


async def test_a_batch_does_not_wait_for_an_unnamed_gateway_task(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_task_system(tmp_path, kling=SynchronousKling(clock), clock=clock) as system, system.running():
        answer, task = await submit_by_gateway(system, batch="spring", batch_size=1)
        await system.settle()

        assert answer.body == SPEECH_ANSWER
        assert (await system.task(task.id)).state is TaskState.REJECTED
        assert await system.event_types() == ["task.rejected", "batch.finished"]


async def test_an_unnamed_api_task_is_rejected_with_klings_answer(tmp_path: Path) -> None:
    clock = IdleClock()
    async with (
        a_task_system(tmp_path, kling=(kling := SynchronousKling(clock)), clock=clock) as system,
        system.running(),
    ):
        task = await system.submit(endpoint=UNKNOWN_ENDPOINT, body={"prompt": "a cat"})
        await system.advance(300)

        assert task.state is TaskState.REJECTED
        assert len(kling.create_ids) == 1
        (event,) = (await system.store.catalog.events(task_id=task.id)).items
        assert json.loads(event.envelope)["type"] == "task.rejected"
        assert event.body == SPEECH_ANSWER


async def test_a_callback_after_an_unnamed_answer_counts(tmp_path: Path) -> None:
    clock = IdleClock()
    async with (
        a_task_system(tmp_path, kling=(kling := SynchronousKling(clock)), clock=clock) as system,
        system.running(),
    ):
        _, task = await submit_by_gateway(system)
        kling_task = kling.add_task(kling.last)

        assert await system.push(kling_task.token, kling.finish_task(kling_task))
        await system.advance(10)

        task = await system.task(task.id)
        assert (task.state, task.kling_id) == (TaskState.SUCCEED, kling_task.id)
        assert await system.event_types() == ["task.succeed"]


async def test_a_callback_before_an_unnamed_answer_names_the_task(tmp_path: Path) -> None:
    class Hasty(SynchronousKling):
        async def create(
            self, endpoint: str, content: bytes, *, pass_through: PassThrough = NO_PASS_THROUGH, **more: Any
        ) -> KlingResponse:
            kling_task = self.add_task(content)
            await system.push(kling_task.token, self.processing_body(kling_task))
            return await super().create(endpoint, content, pass_through=pass_through, **more)

        def processing_body(self, kling_task: KlingTask) -> bytes:
            kling_task.status = "processing"
            return kling_task.status_body()

    clock = IdleClock()
    async with a_task_system(tmp_path, kling=(kling := Hasty(clock)), clock=clock) as system, system.running():
        _, task = await submit_by_gateway(system)
        kling.finish_task(kling.tasks["k1"])
        await system.advance(120)

        task = await system.task(task.id)
        assert (task.state, task.kling_id) == (TaskState.SUCCEED, "k1")


async def test_an_unnamed_answer_of_a_listed_endpoint_causes_a_lookup(tmp_path: Path) -> None:
    clock = IdleClock()
    async with (
        a_task_system(tmp_path, kling=(kling := SynchronousKling(clock)), clock=clock) as system,
        system.running(),
    ):
        _, task = await submit_by_gateway(system, LISTED)

        assert task.state is TaskState.SUBMITTING
        kling.add_task(kling.last)
        await system.advance(10)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED


async def test_an_uncertain_create_at_an_unlisted_endpoint_is_not_repeated(tmp_path: Path) -> None:
    clock = IdleClock()
    async with (
        a_task_system(tmp_path, kling=(kling := SynchronousKling(clock)), clock=clock) as system,
        system.running(),
    ):
        kling.create_fault = no_response()
        task = await system.submit(endpoint=UNKNOWN_ENDPOINT, body={"prompt": "a cat"})
        kling.create_fault = None
        await system.advance(300)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert len(kling.create_ids) == 1
        assert len(await system.alerts("submit_unknown")) == 1


def test_success_of_a_call_does_not_depend_on_the_body() -> None:
    error = KlingError("no")

    assert KlingResponse(status=200, headers={}, body=b"", error=error).is_success
    assert not KlingResponse(status=429, headers={}, body=b"", report=StatusReport(state=None)).is_success
