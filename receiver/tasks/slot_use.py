"""How many slots a task used, once its result shows it. Pure."""

from msgspec.structs import replace

from receiver.domain.model import StatusReport, TaskState
from receiver.domain.queueing import Queueing
from receiver.kling.endpoints import MAX_IMAGES


def with_true_slots(queueing: Queueing, report: StatusReport) -> Queueing:
    """Return the slots that the task really used: a series whose length Kling chose was counted with the most."""
    images = sum(len(entries) for kind, entries in report.result.items() if kind.endswith("images"))
    is_known = report.state is TaskState.SUCCEED and 0 < images < queueing.weight == MAX_IMAGES
    return replace(queueing, weight=images) if is_known else queueing
