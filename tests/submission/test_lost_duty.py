"""A process that submits tasks and has lost that duty to another one."""

from datetime import timedelta
from pathlib import Path

from harness.running_service import ENDPOINT
from harness.task_system import TaskSystem, a_task_system

from receiver.domain.clock import token_hash
from receiver.domain.duties import Tenure
from receiver.domain.errors import KlingUnreachable
from receiver.domain.model import Task, TaskState
from receiver.kling import endpoints
from receiver.store.interfaces import ById, Change
from receiver.submission.request import SubmitRequest
from receiver.tasks import submit_lifecycle

MINUTE = timedelta(minutes=1)


async def begin(system: TaskSystem, task: Task, token: str) -> Task:
    """Begin an attempt at the create of a task, as the process that has the duty does."""
    now = system.clock.now()
    begun = submit_lifecycle.start_submit(task, token_hash(token), now=now, lookup_at=now + MINUTE)
    await system.store.tasks.apply(ById(id=task.id), lambda _task, _pushes: Change(task=begun))
    return begun


async def test_a_late_result_of_an_earlier_attempt_changes_nothing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        request = SubmitRequest(endpoint=ENDPOINT, body={"prompt": "a cat"})
        queued = (await system.submitter.submit(request, wait=False)).task
        first = await begin(system, queued, "first")
        again = await system.recorder.requeue(first, "not created", until=system.clock.now())
        second = await begin(system, again, "second")

        await system.recorder.requeue(first, "late", until=system.clock.now())
        await system.recorder.reject(first, "late")
        await system.recorder.schedule_lookup(first, "late", wait=timedelta())
        await system.recorder.record_unknown(first, "late")

        assert await system.task(queued.id) == second


async def test_nothing_is_sent_without_the_duty(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        request = SubmitRequest(endpoint=ENDPOINT, body={"prompt": "a cat"})
        task = await begin(system, (await system.submitter.submit(request, wait=False)).task, "token")
        endpoint = endpoints.resolve(ENDPOINT)
        assert endpoint is not None
        system.executor.tenure = Tenure(lambda: 0.0)

        answer = await system.executor.execute(task, endpoint, b'{"prompt":"a cat"}', "token", slots_in_use={})

        assert isinstance(answer, KlingUnreachable)
        assert system.kling.tasks == {}
        assert (await system.task(task.id)).state is TaskState.QUEUED


async def test_work_that_starts_again_in_the_same_process_continues(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        async with system.running():
            before = await system.submit()
        async with system.running():
            after = await system.submit()
            await system.advance(120, step=30)

        states = [(await system.task(task.id)).state for task in (before, after)]
        assert states == [TaskState.SUBMITTED, TaskState.SUBMITTED]
        assert len(system.kling.tasks) == 2
