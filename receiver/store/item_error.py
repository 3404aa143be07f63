"""The error of one write in a group."""

import msgspec


class ItemError(msgspec.Struct, frozen=True):
    """An error that concerns one item: its caller gets the error, and the rest of the group is written."""

    error: Exception
