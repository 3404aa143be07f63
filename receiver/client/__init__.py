"""The Python client of the service: submit tasks, wait for them, follow events. The CLI uses it too.

::

    async with Client() as client:
        task = await client.submit("images/multi-image2image", {"prompt": "two friends", ...})
        task = await client.wait(task.id)

:class:`Client` is for asyncio programs, :class:`SyncClient` for all others. Errors are those of
:mod:`receiver.domain.errors`.
"""

from receiver.client.client import Client
from receiver.client.models import Batch, BatchNotFinished, Event, Page, Task, TaskNotFinished
from receiver.client.sync_client import SyncClient

__all__ = ["Batch", "BatchNotFinished", "Client", "Event", "Page", "SyncClient", "Task", "TaskNotFinished"]
