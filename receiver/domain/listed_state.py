"""The states that lists, counts and filters of tasks know."""

from enum import StrEnum


class ListedState(StrEnum):
    """A task's state as lists, counts and filters show it: a rejected task that an operator cancelled is apart.

    The words are those of TaskState, and one more. Events keep TaskState: a cancelled task is ``task.rejected``.
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
