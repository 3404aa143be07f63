"""Tasks that succeeded with archived and other results, as the archiver leaves them in a store."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from harness.factories import a_task, an_event

from receiver.archive.content_type import EXTENSIONS
from receiver.domain.clock import Ids
from receiver.domain.model import ArchiveState, Asset, Json, Source, TaskState, Verification
from receiver.events.payload import envelope, task_data, with_assets
from receiver.store.interfaces import ArchiveUpdate
from receiver.store.sqlite.store import SqliteStore

File = tuple[bytes, str]
"""The content of a file and its type."""


async def a_finished_task(
    store: SqliteStore,
    ids: Ids,
    folder: Path,
    *files: File | None,
    at: datetime,
    label: str | None = None,
    batch: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Store a task that succeeded *at* a time with these results, and return its ID. None is a result without file."""
    task_id, event_id = ids.new("tsk"), ids.new("evt")
    task = a_task(
        id=task_id,
        external_task_id=task_id,
        kling_id=task_id.upper(),
        state=TaskState.SUCCEED,
        due_at=None,
        label=label,
        batch=batch,
        tags=tags or {},
        created_at=at,
        updated_at=at,
    )
    await store.tasks.add(task, b"")
    urls = [f"https://cdn.example.com/{task_id}/{number}?sig=x" for number in range(len(files))]
    kinds: dict[str, list[Json]] = {}
    for number, (file, url) in enumerate(zip(files, urls, strict=True)):
        kind = (file[1] if file else "image/png").partition("/")[0] + "s"
        kinds.setdefault(kind if kind in ("images", "videos", "audios") else "images", []).append(
            {"index": number, "url": url}
        )
    data = task_data(
        task,
        event_id=event_id,
        state=TaskState.SUCCEED,
        source=Source.CALLBACK,
        verified=Verification.API,
        result=kinds,
    )
    text = envelope("task.succeed", at, data)
    event = an_event(event_id, task_id=task_id, envelope=text, created_at=at, archiving=ArchiveState.PENDING)
    await store.tasks.add_events([event], [])
    ordered = [entry["url"] for entries in kinds.values() for entry in entries]
    assets = _write(folder / task_id / event_id, files, urls, ordered)
    await store.archive.save(ArchiveUpdate(event_id=event_id, envelope=with_assets(text, assets), assets=assets))
    return task_id


def _write(folder: Path, files: Sequence[File | None], urls: Sequence[str], ordered: Sequence[str]) -> list[Asset]:
    """Write the files under the numbers that their URLs have in the result."""
    assets = []
    folder.mkdir(parents=True)
    for file, url in zip(files, urls, strict=True):
        if file is None:
            continue
        content, type_ = file
        number = ordered.index(url)
        path = folder / f"{number}.{EXTENSIONS.get(type_, 'bin')}"
        path.write_bytes(content)
        digest = hashlib.sha256(content).digest()
        assets.append(
            Asset(number=number, url=url, path=str(path), sha256=digest, size=len(content), content_type=type_)
        )
    return assets
