"""Silent tasks at a fake Kling or at the simulator."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.factories import a_task
from harness.fake_kling import KlingTask
from harness.task_system import IdleClock, TaskSystem, a_task_system

from receiver.domain.errors import KlingUnreachable
from receiver.domain.model import Task
from receiver.domain.secret import Secret
from receiver.kling.client import KlingClient
from receiver.kling.simulator import Options, Simulator, serve
from receiver.net.http_client import HttpClient
from receiver.settings import Dialect, KlingSettings, PollSettings, PublicSettings

FAST_POLLING = PollSettings(after=timedelta(seconds=10), every=timedelta(seconds=40))
UNREACHABLE = KlingUnreachable("Kling cannot be reached.")
KEY = "the-key-of-a-test"


async def add_stalled_tasks(system: TaskSystem, count: int, *, start: int = 0, **changes: object) -> list[Task]:
    """Store running tasks that are all due now, as an outage leaves them."""
    tasks = []
    for number in range(start, start + count):
        name = f"tsk_{number:05}"
        made = KlingTask(id=f"k{number}", external_task_id=name, callback_url=None)
        system.kling.tasks[made.id] = made
        given = {"id": name, "kling_id": made.id, "external_task_id": name, "due_at": system.clock.now()} | changes
        tasks.append(await system.store.tasks.add(a_task(**given), b"{}"))
    return tasks


@contextlib.asynccontextmanager
async def a_task_system_with_simulator(
    folder: Path, *, dialect: Dialect = Dialect.OFFICIAL, **options: Any
) -> AsyncIterator[tuple[TaskSystem, Simulator]]:
    given = {"api_key": KEY, "check_images": False, "submitted_for": "1h"} | options
    async with serve(Options.parse(given)) as simulator:
        settings = KlingSettings(base_url=simulator.url, api_key=Secret(KEY), dialect=dialect)
        clock, http_client = IdleClock(), HttpClient(user_agent="kling-receiver/test")
        async with contextlib.aclosing(http_client):
            kling = KlingClient(settings, http_client=http_client, clock=clock)
            async with (
                a_task_system(
                    folder, kling=kling, clock=clock, kling_settings=settings, public=PublicSettings()
                ) as system,
                system.running(),
            ):
                yield system, simulator
