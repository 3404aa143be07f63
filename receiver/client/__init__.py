"""The service for programs: hand a task in, wait for its end, follow events. The commands use nothing else.

::

    async with Client() as client:
        task = await client.submit("images/multi-image2image", {"prompt": "two friends", ...})
        task = await client.wait(task.id)

:class:`Client` is for programs with an event loop, :class:`SyncClient` for those without. What goes wrong is told by
the errors of :mod:`receiver.domain.errors`.
"""

from receiver.client.client import Client
from receiver.client.models import Batch, BatchNotFinished, Event, Page, Task, TaskNotFinished
from receiver.client.sync_client import SyncClient

__all__ = ["Batch", "BatchNotFinished", "Client", "Event", "Page", "SyncClient", "Task", "TaskNotFinished"]
