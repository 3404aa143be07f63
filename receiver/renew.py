"""Asks Kling for the URLs of a task's results anew: a URL is signed for a time, and its file may live on after that."""

from collections.abc import Sequence
from typing import Protocol

import structlog

from receiver.asking import question
from receiver.errors import KlingError, NoAnswer, Retry
from receiver.kling.client import Answer
from receiver.model import Task, TaskState
from receiver.payload import result_urls

log = structlog.get_logger()


class Questions(Protocol):
    """What is asked of Kling."""

    async def query(self, endpoint: str, task_id: str) -> Answer:
        """Ask about one task."""
        ...


class Renewer:
    """Gives the URLs that Kling tells of today."""

    def __init__(self, kling: Questions) -> None:
        self._kling = kling

    async def renew(self, task: Task) -> Sequence[str]:
        """Give the URLs of a task's results in their order; none where Kling cannot be asked, or has none.

        Raises NoAnswer when Kling could not say, and may yet.
        """
        asked_for = question(task, ())
        if task.endpoint is None or asked_for is None:
            return ()
        try:
            answer = await self._kling.query(task.endpoint, asked_for)
        except KlingError as exc:
            raise NoAnswer(exc.message) from exc
        error, reading = answer.error, answer.reading
        if error is not None and error.retry is not Retry.NO:
            raise NoAnswer(error.message) from error
        is_there = error is None and reading is not None and reading.state is TaskState.SUCCEED
        urls = result_urls(reading.result) if is_there and reading is not None else ()
        log.info("urls.renewed", task=task.id, urls=len(urls), reason="" if error is None else error.message)
        return urls
