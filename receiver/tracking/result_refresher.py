"""Asks Kling for a task's result anew: its URLs are signed for a time, and their files may live on after that."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from receiver.domain.errors import KlingError, NoResponse, RetryHint
from receiver.domain.model import Json, Task, TaskState
from receiver.kling.client import KlingResponse
from receiver.tasks.poll_schedule import poll_id

log = structlog.get_logger()


class TaskQueryApi(Protocol):
    """What is asked of Kling."""

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Ask about one task."""
        ...


class ResultRefresher:
    """Gives the result that Kling tells of today."""

    def __init__(self, kling: TaskQueryApi) -> None:
        self._kling = kling

    async def refresh(self, task: Task) -> Mapping[str, Sequence[Json]]:
        """Give a task's result, kind by kind; nothing where Kling cannot be asked, or has none.

        Raises NoAnswer when Kling could not say, and may yet.
        """
        asked_for = poll_id(task, ())
        if task.endpoint is None or asked_for is None:
            return {}
        try:
            answer = await self._kling.query(task.endpoint, asked_for)
        except KlingError as exc:
            raise NoResponse(exc.message) from exc
        error, reading = answer.error, answer.report
        if error is not None and error.retry is not RetryHint.NEVER:
            raise NoResponse(error.message) from error
        is_there = error is None and reading is not None and reading.state is TaskState.SUCCEED
        log.info("result.refreshed", task=task.id, found=is_there, reason="" if error is None else error.message)
        return reading.result if is_there and reading is not None else {}
