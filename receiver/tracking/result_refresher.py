"""Queries Kling for fresh result URLs: their signatures expire, while the files may still exist."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from receiver.domain.errors import KlingError, NoResponse, RetryHint
from receiver.domain.model import Json, Task, TaskState
from receiver.kling.client import KlingResponse
from receiver.tasks.poll_schedule import poll_id

log = structlog.get_logger()


class TaskQueryApi(Protocol):
    """The part of Kling's API that queries tasks."""

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        """Query one task."""
        ...


class ResultRefresher:
    """Returns the current result of a task, as Kling reports it now."""

    def __init__(self, kling: TaskQueryApi) -> None:
        self._kling = kling

    async def refresh(self, task: Task) -> Mapping[str, Sequence[Json]]:
        """Return a task's result by kind; empty if the task cannot be polled or has no result.

        Raises NoResponse if Kling did not answer and may answer later.
        """
        kling_id = poll_id(task, ())
        if task.endpoint is None or kling_id is None:
            return {}
        try:
            answer = await self._kling.query(task.endpoint, kling_id)
        except KlingError as exc:
            raise NoResponse(exc.message) from exc
        error, report = answer.error, answer.report
        if error is not None and error.retry is not RetryHint.NEVER:
            raise NoResponse(error.message) from error
        is_found = error is None and report is not None and report.state is TaskState.SUCCEED
        log.info("result.refreshed", task=task.id, found=is_found, reason="" if error is None else error.message)
        return report.result if is_found and report is not None else {}
