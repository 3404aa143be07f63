"""Unsigned pushes stay pending until Kling confirms them; forged ones are never delivered."""

from collections import Counter
from pathlib import Path

import pytest
from harness.fake_kling import KlingTask, refusal
from harness.submitted_tasks import a_running_task
from harness.task_system import ENDPOINT, TaskSystem, a_task_system

from receiver.domain.errors import TooManyPending
from receiver.domain.model import Task, TaskState
from receiver.domain.results import Result, without_queries
from receiver.settings import CallbackSettings, Verify
from receiver.tracking import pending_pushes

NO_VERIFICATION = CallbackSettings(verify=Verify.NEVER)


async def a_callback_url_task(
    system: TaskSystem, endpoint: str | None = ENDPOINT, **more: str | None
) -> tuple[Task, KlingTask]:
    """A minted URL, and the task at Kling that was made with it elsewhere."""
    task, url = await system.submitter.create_callback_url(endpoint=endpoint)
    kling_task = KlingTask(
        id="true", external_task_id=more.get("external_task_id"), callback_url=url, status="processing"
    )
    system.kling.tasks[kling_task.id] = kling_task
    return task, kling_task


async def test_a_forged_first_push_binds_no_id(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)

        await system.push(kling_task.token, kling_task.status_body(task_id="forged", task_status="succeed"))
        await system.settle()
        assert (await system.task(task.id)).state is TaskState.AWAITING
        assert (await system.task(task.id)).kling_id is None
        assert await system.push_outcomes(task.id) == ["forged"]

        await system.push(kling_task.token, kling_task.status_body())
        await system.advance(6)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(6)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert await system.event_types() == ["task.processing", "task.succeed"]


@pytest.mark.parametrize("forgeries", [1, 30])
async def test_the_id_that_kling_confirms_is_found_among_forged_ones(tmp_path: Path, forgeries: int) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        for number in range(forgeries):
            await system.push(
                kling_task.token, kling_task.status_body(task_id=f"forged{number}", task_status="succeed")
            )
        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        await system.advance(5 * (forgeries + 2), step=5)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert Counter(await system.push_outcomes(task.id))["applied"] == 1
        assert await system.event_types() == ["task.succeed"]


async def push_many(system: TaskSystem, kling_task: KlingTask, count: int, *, start: int = 0) -> int:
    """Have many claims come that name ids of nobody; tell how many were refused."""
    refused = 0
    for name in range(start, start + count):
        try:
            assert await system.push(
                kling_task.token, kling_task.status_body(task_id=f"forged{name}", task_status="succeed")
            )
        except TooManyPending:
            refused += 1
    return refused


async def test_a_flood_neither_drops_nor_delays_an_acknowledged_push(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        assert await push_many(system, kling_task, 30) == 0
        body = system.kling.finish_task(kling_task)
        assert await system.push(kling_task.token, body)
        refused = await push_many(system, kling_task, 200, start=30)
        for second in range(40):
            await system.advance(5, step=5)
            refused += await push_many(system, kling_task, 3, start=300 + 3 * second)

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert refused >= 150
        page = await system.store.catalog.events(task_id=task.id)
        assert [event.body for event in page.items] == [body]
        assert Counter(
            Counter(kling_id for kling_id, _ in system.kling.queries if kling_id != "true").values()
        ).keys() == {1}


async def test_a_refused_push_is_admitted_after_another_was_confirmed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        _, kling_task = await a_callback_url_task(system)
        await push_many(system, kling_task, pending_pushes.MAX_PENDING + 1)  # of the first Kling is asked at once
        body = system.kling.finish_task(kling_task)
        with pytest.raises(TooManyPending):
            await system.push(kling_task.token, body)

        await system.advance(6)

        assert await system.push(kling_task.token, body)


async def test_an_id_without_an_answer_does_not_block_other_ids(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        system.kling.query_fault = lambda kling_id: refusal(500, 5000) if kling_id.startswith("forged") else None
        await push_many(system, kling_task, 3)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        await system.advance(300, step=5)

        assert (await system.task(task.id)).kling_id == "true"


async def test_only_the_newest_of_equal_pushes_is_pending(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for url in ("a", "b", "b"):
            result = {"images": [{"index": 0, "url": f"https://cdn.example.com/{url}"}]}
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed", task_result=result))

        assert await system.push_outcomes(task.id) == ["pending", "duplicate", "pending"]


async def test_a_result_is_read_once_however_many_pushes_are_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []

    def counting(result: Result) -> Result:
        read.append(result)
        return without_queries(result)

    monkeypatch.setattr("receiver.tracking.pending_reports.without_queries", counting)
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for number in range(10):
            result = {"images": [{"index": 0, "url": f"https://cdn.example.com/{number}"}]}
            await system.push(kling_task.token, kling_task.status_body(task_status="succeed", task_result=result))

        assert await system.push_outcomes(task.id) == ["pending"] * 10
        assert len(read) == 10


async def test_a_genuine_push_is_confirmed_among_many_forged_ones(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, kling_task = await a_running_task(system)

        for lie in range(2 * pending_pushes.MAX_PENDING):
            await system.push(
                kling_task.token, kling_task.status_body(task_status="succeed", task_status_msg=f"lie {lie}")
            )
        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        assert 0 < Counter(await system.push_outcomes(task.id))["pending"] <= pending_pushes.MAX_PENDING


async def test_a_push_with_another_id_is_never_delivered(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        system.kling.query_fault = lambda kling_id: refusal(404, 1203) if kling_id == "forged" else None
        body = system.kling.finish_task(kling_task)
        await system.push(kling_task.token, kling_task.status_body(task_id="forged"))
        await system.push(kling_task.token, body)

        await system.advance(15, step=5)

        page = await system.store.catalog.events(task_id=task.id)
        assert [event.body for event in page.items] == [body]


async def test_an_unknown_endpoint_binds_the_first_push_unverified(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system, endpoint=None)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        page = await system.store.catalog.events(task_id=task.id)
        assert [event.verified for event in page.items] == ["none"]
        assert (await system.task(task.id)).kling_id == "true"


async def test_without_verification_the_first_push_binds_at_once(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=NO_VERIFICATION) as system:
        task, kling_task = await a_callback_url_task(system)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))

        assert (await system.task(task.id)).state is TaskState.SUCCEED


async def test_pushes_stay_pending_while_kling_cannot_be_polled(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task, kling_task = await a_callback_url_task(system)
        system.kling.query_fault = refusal(503, 5001)
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(3600, step=20)
        assert (await system.task(task.id)).state is TaskState.AWAITING

        system.kling.query_fault = None
        await system.advance(60, step=5)

        assert (await system.task(task.id)).state is TaskState.SUCCEED
