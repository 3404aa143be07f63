"""Archived results, to show and download them."""

from dataclasses import dataclass
from typing import Protocol

from receiver.domain.model import Asset


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """An archived result with the task and the event it belongs to."""

    task_id: str
    event_id: str
    asset: Asset


class ResultStore(Protocol):
    """Reads of archived results."""

    async def find(self, task_id: str, number: int) -> StoredResult | None:
        """Find a result of a task by its number, in the task's newest event that has it."""
        ...
