"""Tasks that a test has submitted, through the gateway or the API, and what it waits for afterwards."""

import contextlib
import json
from typing import Any

from harness.fake_kling import KlingTask
from harness.task_system import ENDPOINT, JOB, TaskSystem

from receiver.domain.errors import KlingError
from receiver.domain.model import Task
from receiver.kling import endpoints
from receiver.settings import KlingSettings

GATEWAY = KlingSettings(base_url="https://gateway.example/kling")
CERTAIN_AFTER = 65.0
"""Longer than a create may still be invisible at Kling: twice the timeout of a call."""


async def submit_by_gateway(system: TaskSystem, **fields: Any) -> None:
    """Submit a task as a gateway client does, and ignore Kling's error."""
    endpoint = endpoints.resolve(ENDPOINT)
    assert endpoint is not None
    with contextlib.suppress(KlingError):
        await system.gateway_creates.submit_now(endpoint, json.dumps(JOB | fields).encode())


async def only_task(system: TaskSystem) -> Task:
    """Return the one task of the store."""
    (task,) = (await system.store.catalog.tasks()).items
    return task


async def a_running_task(system: TaskSystem, status: str = "processing") -> tuple[Task, KlingTask]:
    """Submit a task, and let Kling report *status* for it."""
    task = await system.submit()
    kling_task = system.kling.tasks[(await system.task(task.id)).kling_id or ""]
    kling_task.status = status
    return task, kling_task
