"""How many slots a task used, once its result shows it. Pure."""

from msgspec.structs import replace

from receiver.domain.model import StatusReport, TaskState
from receiver.domain.queueing import Queueing
from receiver.kling.endpoints import MAX_IMAGES


def with_true_slots(queueing: Queueing, report: StatusReport) -> Queueing:
    """Return the slots that the task really used: a series whose length Kling chose was counted with the most."""
    if queueing.weight != MAX_IMAGES or report.state is not TaskState.SUCCEED:
        return queueing
    images = sum(len(entries) for kind, entries in report.result.items() if kind.endswith("images"))
    return replace(queueing, weight=images) if 0 < images < MAX_IMAGES else queueing
