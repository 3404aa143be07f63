"""The Python client of the service: submit tasks, wait for them, follow events. The CLI uses it too.

::

    async with Client() as client:
        task = await client.submit("images/multi-image2image", {"prompt": "two friends", ...})
        task = await client.wait(task.id)

:class:`Client` is for asyncio programs, :class:`SyncClient` for all others. Errors are those of
:mod:`receiver.domain.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.client.client import Client
    from receiver.client.models import Batch, BatchNotFinished, Event, Page, Task, TaskNotFinished
    from receiver.client.sync_client import SyncClient

__all__ = ["Batch", "BatchNotFinished", "Client", "Event", "Page", "SyncClient", "Task", "TaskNotFinished"]

_MODULES = {"Client": "client", "SyncClient": "sync_client"}

if not TYPE_CHECKING:  # as in receiver/__init__

    def __getattr__(name: str) -> object:
        """Import a class on first use: a shell's completion needs only the address of the service."""
        if name in __all__:
            return getattr(import_module(f"receiver.client.{_MODULES.get(name, 'models')}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
