"""Results of tasks as rows."""

from collections.abc import Iterable, Sequence

from receiver.domain.clock import from_micros
from receiver.store.interfaces import TaskResults
from receiver.store.packing import unpack_event
from receiver.store.rows import Row

MAX_SEARCHED = 2000
"""How many tasks one page of results searches."""


def read_results(found: Iterable[Row]) -> Sequence[TaskResults]:
    """Read results. Of a task with an unverified and a verified success, only the last one counts."""
    by_task: dict[str, TaskResults] = {}
    for row in found:
        created_at, task_id = from_micros(row["created_at"]), row["task_id"]
        envelope, _ = unpack_event(row["envelope"], row["body"])
        result = TaskResults(task_id=task_id, event_id=row["id"], created_at=created_at, envelope=envelope)
        by_task.setdefault(task_id, result)
    return list(by_task.values())
