"""The states that lists, counts and filters of tasks know."""

from enum import StrEnum


class ListedState(StrEnum):
    """A task's state as lists, counts and filters show it: TaskState, and ``cancelled`` for tasks that were cancelled.

    Events keep TaskState: the event of a cancelled task is ``task.rejected``.
    """

    AWAITING = "awaiting"
    QUEUED = "queued"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @classmethod
    def _missing_(cls, value: object) -> "ListedState | None":
        """Accept the American spelling."""
        return cls.CANCELLED if value == "canceled" else None
