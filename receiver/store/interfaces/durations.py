"""How long past tasks took."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol


class DurationStore(Protocol):
    """The durations of past tasks by kind, in seconds, newest last."""

    async def load(self) -> Mapping[str, Sequence[float]]:
        """Return all durations, the kind that changed longest ago first."""
        ...

    async def save(self, durations: Mapping[str, Sequence[float]], *, now: datetime, keep: int) -> None:
        """Replace the durations of these kinds, and keep only the *keep* kinds that changed last."""
        ...
