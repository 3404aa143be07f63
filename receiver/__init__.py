"""Kling Receiver: takes Kling's callbacks in, keeps them, and starts what is to follow.

For programs: ``from receiver import Client`` or ``SyncClient``, see :mod:`receiver.client`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.client import Client, Event, SyncClient, Task

__version__ = "0.1.0"

__all__ = ["Client", "Event", "SyncClient", "Task", "__version__"]

if not TYPE_CHECKING:  # a checker sees the names themselves, and misses those that are not there

    def __getattr__(name: str) -> object:
        """Load the client when it is asked for: the service and its scripts' helpers do without."""
        if name in __all__:
            return getattr(import_module("receiver.client"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
