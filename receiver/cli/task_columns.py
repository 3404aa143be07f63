"""The columns of a list of tasks, which several commands print."""

from receiver.cli import render
from receiver.domain.model import Json


def _tags_text(task: Json) -> str:
    return ",".join(f"{key}={value}" for key, value in (task.get("tags") or {}).items())


TASK_COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.column("endpoint", rank=2),
    render.column("label", rank=3),
    render.Column(title="tags", value=_tags_text, rank=5),
    render.id_column("kling_id", "kling id", rank=6),
    render.time_column("created_at", "created", rank=4),
    render.column("message", rank=1),
)
