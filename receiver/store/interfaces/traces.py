"""The traces of tasks."""

from typing import Protocol


class TraceStore(Protocol):
    """Keeps the trace of each task's submit as long as the task."""

    async def save(self, task_id: str, traceparent: str) -> None:
        """Store the trace of a task, unless it has one."""
        ...

    async def find(self, task_id: str) -> str | None:
        """Return the trace of a task, or None."""
        ...
