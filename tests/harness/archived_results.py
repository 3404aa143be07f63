"""Archived files of a store: written to a folder and recorded, as the archiver does."""

import hashlib
from pathlib import Path
from typing import Any

from harness.factories import a_task, an_event

from receiver.archive.content_type import EXTENSIONS
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
    asset = Asset(**given | changes)
    await store.archive.save(ArchiveUpdate(event_id=event_id, envelope=event.envelope, assets=[asset]))
    return StoredResult(task_id=task_id, event_id=event_id, asset=asset)
