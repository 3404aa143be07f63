"""What a command says about a batch that it leaves open."""

from collections.abc import Sequence

from receiver.client import Batch
from receiver.domain.batches import BatchState

_MAX_NAMED = 3


def open_batches_note(batches: Sequence[Batch]) -> str:
    """Return how to close those batches that are open, or an empty string."""
    names = [batch.name for batch in batches if batch.state == BatchState.OPEN]
    if not names:
        return ""
    more = " and more" if len(names) > _MAX_NAMED else ""
    what = f"Batch {names[0]} stays" if len(names) == 1 else f"Batches {', '.join(names[:_MAX_NAMED])}{more} stay"
    return (
        f"{what} open for more tasks, and batch.finished waits for the end. Close with "
        f"`kling-receiver batches close {names[0]}`, or add --close-batch to the last submit."
    )
