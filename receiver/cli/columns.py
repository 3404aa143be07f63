"""The columns of a list of tasks, which several commands print."""

from receiver.cli import render
from receiver.domain.model import Json, TaskState


def _tags_text(task: Json) -> str:
    return ",".join(f"{key}={value}" for key, value in (task.get("tags") or {}).items())


def is_cancelled(task: Json) -> bool:
    """Return whether an operator cancelled a task: the API counts it as rejected, and its message says so."""
    return task.get("state") == TaskState.REJECTED and str(task.get("message") or "").startswith("cancelled by ")


def state_text(task: Json) -> object:
    """Return the state of a task as people read it: ``cancelled`` is one of its own."""
    return "cancelled" if is_cancelled(task) else task.get("state")


TASK_COLUMNS = (
    render.id_column("id", "id"),
    render.Column(title="state", value=state_text, is_state=True, no_wrap=True, rank=0),
    render.column("endpoint", rank=2),
    render.column("label", rank=3),
    render.Column(title="tags", value=_tags_text, rank=5),
    render.id_column("kling_id", "kling id", rank=6),
    render.time_column("created_at", "created", rank=4),
    render.column("message", rank=1),
)
