"""Archived files of a store: written to a folder and recorded, as the archiver does."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from harness.factories import a_task, an_event

from receiver.archive.content_type import EXTENSIONS
from receiver.archive.previews import Previews
from receiver.domain.clock import Ids
from receiver.domain.model import ArchiveState, Asset, TaskState
from receiver.store.interfaces import ArchiveUpdate, StoredResult
from receiver.store.sqlite.store import SqliteStore


async def archive_file(
    store: SqliteStore, ids: Ids, folder: Path, content: bytes, *, content_type: str = "image/png", **changes: Any
) -> StoredResult:
    """Store a task that succeeded with one archived file below *folder*. *changes* are made to its asset."""
    task_id, event_id = ids.new("tsk"), ids.new("evt")
    task = a_task(id=task_id, external_task_id=task_id, kling_id=None, state=TaskState.SUCCEED, due_at=None)
    await store.tasks.add(task, b"")
    event = an_event(event_id, task_id=task_id, archiving=ArchiveState.PENDING)
    await store.tasks.add_events([event], [])
    result = write_result(folder, task_id, event_id, content, content_type=content_type, **changes)
    await store.archive.save(ArchiveUpdate(event_id=event_id, envelope=event.envelope, assets=[result.asset]))
    return result


def write_result(
    folder: Path, task_id: str, event_id: str, content: bytes, *, content_type: str = "image/png", **changes: Any
) -> StoredResult:
    """Write an archived file. *changes* are made to its asset."""
    path = folder / task_id / event_id / f"0.{EXTENSIONS.get(content_type, 'bin')}"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    given: dict[str, Any] = {
        "number": 0,
        "url": "https://cdn.example.com/0",
        "path": str(path),
        "sha256": hashlib.sha256(content).digest(),
        "size": len(content),
        "content_type": content_type,
    }
    return StoredResult(task_id=task_id, event_id=event_id, asset=Asset(**given | changes))


@contextlib.asynccontextmanager
async def running_previews(previews: Previews) -> AsyncIterator[Previews]:
    """Make thumbnails in the block."""
    stop = asyncio.Event()
    running = asyncio.create_task(previews.run(stop))
    try:
        yield previews
    finally:
        stop.set()
        await running
