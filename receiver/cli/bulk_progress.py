"""How far a submit of many jobs is, and its results in the order of the file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from receiver.cli import render
from receiver.cli.job_file import Job
from receiver.cli.options import ClientOptions
from receiver.cli.task_wait import NO_REASON
from receiver.client import Task
from receiver.client.models import FINAL_STATES
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Json, TaskState
from receiver.domain.quantity_text import counted

_MAX_NAMED = 10
_END_WORDS = {
    ListedState.SUCCEED: "succeeded",
    ListedState.FAILED: "failed",
    ListedState.REJECTED: "rejected",
    ListedState.CANCELLED: "cancelled",
    ListedState.EXPIRED: "expired",
}
_RETRIED = (ListedState.FAILED, ListedState.REJECTED)  # what `tasks retry --failed` selects


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task ended, and why."""

    state: str
    message: str


@dataclass(slots=True)
class BulkProgress:
    """The submitted jobs so far, which of them existed before, and the state of each task."""

    total: int
    tasks: dict[str, Task] = field(default_factory=dict)
    ends: dict[str, TaskEnd] = field(default_factory=dict)  # by task id; may include tasks not submitted here
    by_line: dict[int, str] = field(default_factory=dict)  # the task's id by the line of its job
    earlier: list[Task] = field(default_factory=list)  # as they were when the command found them

    @property
    def accepted(self) -> int:
        """The number of submitted jobs."""
        return len(self.by_line)

    def record(self, job: Job, task: Task) -> None:
        """Record a submitted job."""
        self.by_line[job.line] = task.id
        self.tasks[task.id] = task
        if task.raw.get("existing"):
            self.earlier.append(task)

    def task(self, job: Job) -> Task:
        """Return the latest known task of a submitted job."""
        task = self.tasks[self.by_line[job.line]]
        end = self.ends.get(task.id)
        if end is None or task.state in FINAL_STATES:
            return task
        return Task.from_json(task.raw | {"state": end.state, "message": end.message})

    def state(self, task_id: str) -> str:
        """Return the latest known state of a task."""
        end = self.ends.get(task_id)
        return end.state if end else self.tasks[task_id].state

    @property
    def finished(self) -> Counter[str]:
        """The number of finished tasks in each final state."""
        return Counter(state for state in map(self.state, self.tasks) if state in FINAL_STATES)

    def counts(self) -> str:
        """Return how many jobs are new and how many existed before, while they are submitted."""
        new = f"{self.accepted - len(self.earlier)} submitted"
        return f"{new}, {len(self.earlier)} submitted earlier" if self.earlier else new

    def summary(self) -> str:
        """Return a sentence with the number of new jobs, and of those that an earlier command submitted."""
        if not self.earlier:
            return f"{self.accepted} of {counted(self.total, 'job')} submitted."
        counts = Counter(_earlier_text(task) for task in self.earlier)
        dates = sorted((task.raw.get("created_at") or "")[:10] for task in self.earlier)
        parts = [f"{number} {words}" for words, number in sorted(counts.items(), key=lambda each: -each[1])]
        parts[0] += f" ({dates[0]})" if dates[0] == dates[-1] else f" ({dates[0]} to {dates[-1]})"
        new = self.accepted - len(self.earlier)
        jobs = counted(self.total, "job")
        whole = jobs if self.accepted == self.total else f"{self.accepted} of {jobs}"
        return f"{whole}: {new} new, {', '.join(parts)}.{self._retry_hint()}"

    def _retry_hint(self) -> str:
        """Return how to run the failed tasks again, or an empty string. `--new` would charge for all jobs."""
        failed = [task for task in self.earlier if task.state in _RETRIED]
        if not failed:
            return ""
        named = sorted({task.batch for task in failed if task.batch is not None})
        commands = [f"`tasks retry --failed --batch {name}`" for name in named[:_MAX_NAMED]]
        if not all(task.batch for task in failed):
            commands.append("`tasks retry ID`")
        return f" To run the failed ones again: {', '.join(commands)}. To pay for all of them again: --new."

    def continuing(self) -> str:
        """Return a sentence with the tasks that continue without the command, or an empty string."""
        running = [task_id for task_id in self.tasks if self.state(task_id) not in FINAL_STATES]
        if not running:
            return ""
        more = f" and {len(running) - _MAX_NAMED} more" if len(running) > _MAX_NAMED else ""
        tasks = "1 task continues" if len(running) == 1 else f"{len(running)} tasks continue"
        return f"{tasks}: {', '.join(running[:_MAX_NAMED])}{more}. "


def _earlier_text(task: Task) -> str:
    end = _END_WORDS.get(ListedState(task.state))
    return "still running" if end is None else f"{end} earlier"


def print_results(results: Sequence[tuple[int, Task]], output: ClientOptions) -> None:
    """Print tasks with the numbers of their lines: as JSON lines, or as a table with the files or URLs."""
    items: list[Json] = [{"line": line, "result": {}, "assets": []} | task.raw for line, task in results]
    if output.json:
        for item in items:
            render.print_json_line(item)
        return
    locations = {task.id: " ".join(task.result_locations) for _, task in results}
    for item in items:
        item["result"] = locations[str(item["id"])] or _reason(item)
    render.table(_COLUMNS, items, empty="No job was submitted.")


def _reason(item: Json) -> str:
    is_unsuccessful = item["state"] in FINAL_STATES and item["state"] != TaskState.SUCCEED
    return str(item.get("message") or (NO_REASON if is_unsuccessful else ""))


_COLUMNS = (
    render.Column(title="line", value=lambda item: item["line"], no_wrap=True, rank=0),
    render.column("label", rank=1),
    render.state_column("state"),
    render.id_column("result", "file, URL or reason"),
    render.id_column("id", "id", rank=3),
)
