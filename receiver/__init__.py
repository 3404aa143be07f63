"""Kling Receiver: stores Kling's callbacks and delivers their results to webhooks and scripts.

For programs: ``from receiver import Client`` or ``SyncClient``, see :mod:`receiver.client`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.client import Client, Event, SyncClient, Task

__version__ = "0.1.0"

__all__ = ["Client", "Event", "SyncClient", "Task", "__version__"]

if not TYPE_CHECKING:  # a type checker reads the imports above, so it still reports unknown names

    def __getattr__(name: str) -> object:
        """Import the client on first use: the service and the script relay start faster without it."""
        if name in __all__:
            return getattr(import_module("receiver.client"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
