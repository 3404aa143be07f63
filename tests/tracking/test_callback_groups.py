"""Callbacks that are stored in one transaction: each has the result that it would have alone."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from harness.submitted_tasks import a_running_task
from harness.task_system import a_task_system

from receiver.domain.clock import token_hash
from receiver.domain.errors import TooManyPending
from receiver.tracking.incoming import Callback
from receiver.tracking.push_limiter import PushKind

LIMIT = PushKind.PROGRESS.value[0]


def callbacks_with(token: str, bodies: Sequence[bytes]) -> Sequence[Callback]:
    return [Callback(token=token, token_hash=token_hash(token), headers=(), body=body) for body in bodies]


async def test_pushes_that_wait_for_their_commit_count_for_the_limit_of_their_url(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        _, kling_task = await a_running_task(system)
        repeated = kling_task.status_body(task_status="processing")
        await system.push(kling_task.token, repeated)  # the only one with an effect
        half = callbacks_with(kling_task.token, [repeated] * (LIMIT // 2))
        end = callbacks_with(kling_task.token, [kling_task.status_body(task_status="failed")])

        groups = await asyncio.gather(*(system.inbox.accept_callbacks(half) for _ in range(3)))
        (later,) = await system.inbox.accept_callbacks(half[:1])

        assert [*groups[0], *groups[1]] == [True] * LIMIT
        assert {type(outcome) for outcome in groups[2]} == {TooManyPending}
        assert isinstance(later, TooManyPending)
        assert await system.inbox.accept_callbacks(end) == [True]
