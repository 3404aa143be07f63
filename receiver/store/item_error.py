"""The error of one write in a group."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ItemError:
    """An error that concerns one item: its caller gets the error, and the rest of the group is written."""

    error: Exception
