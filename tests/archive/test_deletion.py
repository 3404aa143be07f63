"""Which tasks may be deleted, and that their files go even after a crash or an error."""

import asyncio
import contextlib
from pathlib import Path
from typing import TypeAlias

import pytest
from harness.clock import FakeClock
from harness.factories import a_task, an_event
from harness.sqlite_template import open_store
from harness.waiting import wait_until

from receiver.archive.deletion import TaskDeleter
from receiver.domain.audit import AuditEntry
from receiver.domain.errors import Conflict, FileNotStored, NotFound
from receiver.domain.model import ArchiveState, Asset, TaskState
from receiver.store.interfaces import ArchiveUpdate
from receiver.store.sqlite.store import SqliteStore

CLOSING = AuditEntry(at=FakeClock().now(), actor="anna", verb="batch.closed", subject="spring", reason="")

Opened: TypeAlias = contextlib.AbstractAsyncContextManager[SqliteStore]


class Objects:
    """An object store that may be down."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.is_down = False

    async def remove(self, url: str) -> None:
        if self.is_down:
            raise FileNotStored("The object store is down.")
        self.removed.append(url)


class Previews:
    """The thumbnails, which are never missing."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def remove(self, task_id: str) -> None:
        self.removed.append(task_id)


@pytest.fixture
async def store(tmp_path: Path) -> Opened:
    return contextlib.aclosing(await open_store(tmp_path / "receiver.db"))


async def add_archived_task(store: SqliteStore, folder: Path) -> Path:
    """Store a task that succeeded, with one archived file. Return the file."""
    file = folder / "tsk_1" / "evt_1" / "0.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    await store.tasks.add(a_task(state=TaskState.SUCCEED, due_at=None), b"{}")
    event = an_event(archiving=ArchiveState.PENDING)
    await store.tasks.add_events([event], [])
    asset = Asset(
        number=0,
        url="https://x.example/0.png",
        sha256=b"s" * 32,
        size=1,
        content_type="image/png",
        path=str(file),
        storage="s3://bucket/0.png",
    )
    await store.archive.save(ArchiveUpdate(event_id=event.id, envelope=event.envelope, assets=[asset]))
    return file


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (TaskState.QUEUED, "tasks cancel tsk_1"),
        (TaskState.SUBMITTING, "tasks wait tsk_1"),
        (TaskState.SUBMITTED, "tasks wait tsk_1"),
        (TaskState.PROCESSING, "tasks wait tsk_1"),
        (TaskState.AWAITING, "after its callback URL has expired"),
    ],
)
async def test_a_task_that_has_not_ended_is_not_deleted(store: Opened, state: TaskState, remedy: str) -> None:
    async with store as opened:
        await opened.tasks.add(a_task(state=state), b"{}")
        deleter = TaskDeleter(opened.deletions, objects=None, previews=Previews(), clock=FakeClock())

        for asking in (
            deleter.preview("tsk_1", results=True),
            deleter.delete("tsk_1", results=True, actor="anna", reason=""),
        ):
            with pytest.raises(Conflict, match=f"Task tsk_1 is {state}") as refused:
                await asking
            assert remedy in refused.value.remedy

        assert await opened.catalog.task("tsk_1") is not None


async def test_a_task_of_an_unfinished_batch_is_not_deleted(
    store: Opened,
) -> None:
    async with store as opened:
        await opened.tasks.add(a_task(state=TaskState.SUCCEED, due_at=None, batch="spring"), b"{}")
        deleter = TaskDeleter(opened.deletions, objects=None, previews=Previews(), clock=FakeClock())

        with pytest.raises(Conflict, match="in batch spring, which has not finished") as refused:
            await deleter.preview("tsk_1", results=False)

        assert "batches close spring" in refused.value.remedy


async def test_deleting_a_task_of_a_closed_unfinished_batch_suggests_to_wait(store: Opened) -> None:
    async with store as opened:
        await opened.tasks.add(a_task(state=TaskState.SUCCEED, due_at=None, batch="spring"), b"{}")
        await opened.tasks.add(a_task(id="tsk_2", kling_id="k2", batch="spring"), b"{}")
        await opened.batches.close("spring", now=FakeClock().now(), action=CLOSING)
        deleter = TaskDeleter(opened.deletions, objects=None, previews=Previews(), clock=FakeClock())

        with pytest.raises(Conflict, match="in batch spring, which has not finished") as refused:
            await deleter.preview("tsk_1", results=False)

        assert refused.value.remedy == "Wait for its end: `kling-receiver batches wait spring`."


async def test_a_task_whose_results_are_being_archived_is_not_deleted(store: Opened) -> None:
    async with store as opened:
        await opened.tasks.add(a_task(state=TaskState.SUCCEED, due_at=None), b"{}")
        await opened.tasks.add_events([an_event(archiving=ArchiveState.LATE)], [])
        deleter = TaskDeleter(opened.deletions, objects=None, previews=Previews(), clock=FakeClock())

        with pytest.raises(Conflict, match="not all archived yet"):
            await deleter.preview("tsk_1", results=False)


async def test_results_are_removed_only_on_request(store: Opened, tmp_path: Path) -> None:
    async with store as opened:
        file = await add_archived_task(opened, tmp_path / "results")
        deleter = TaskDeleter(opened.deletions, objects=Objects(), previews=Previews(), clock=FakeClock())

        kept = await deleter.preview("tsk_1", results=False)
        planned = await deleter.preview("tsk_1", results=True)
        done = await deleter.delete("tsk_1", results=False, actor="anna", reason="")

        places = [str(file), "s3://bucket/0.png"]
        assert (kept.removed, kept.left) == ((), places)
        assert ([*planned.removed], [*planned.left]) == (places, [])
        assert ([*done.removed], [*done.left]) == ([], places)
        assert file.exists()
        assert await opened.deletions.removals() == {}


async def test_without_an_object_store_a_deletion_lists_the_remaining_objects(store: Opened, tmp_path: Path) -> None:
    async with store as opened:
        file = await add_archived_task(opened, tmp_path / "results")
        deleter = TaskDeleter(opened.deletions, objects=None, previews=Previews(), clock=FakeClock())

        done = await deleter.delete("tsk_1", results=True, actor="anna", reason="")

        assert ([*done.removed], [*done.left]) == ([str(file)], ["s3://bucket/0.png"])
        assert not (tmp_path / "results" / "tsk_1").exists()


async def test_an_object_that_could_not_be_removed_is_removed_later(store: Opened, tmp_path: Path) -> None:
    async with store as opened:
        await add_archived_task(opened, tmp_path / "results")
        clock, objects = FakeClock(), Objects()
        objects.is_down = True
        deleter = TaskDeleter(opened.deletions, objects=objects, previews=Previews(), clock=clock)
        done = await deleter.delete("tsk_1", results=True, actor="anna", reason="")
        assert [*done.left] == ["s3://bucket/0.png"]

        objects.is_down = False
        stop = asyncio.Event()
        running = asyncio.create_task(deleter.run(stop))
        await wait_until(lambda: objects.removed == ["s3://bucket/0.png"])
        stop.set()
        await running

        assert await opened.deletions.removals() == {}


async def test_a_crash_after_the_deletion_leaves_no_file(
    store: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store as opened:
        file = await add_archived_task(opened, tmp_path / "results")
        deleter = TaskDeleter(opened.deletions, objects=Objects(), previews=Previews(), clock=FakeClock())
        with monkeypatch.context() as patch:
            patch.setattr(TaskDeleter, "_remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                await deleter.delete("tsk_1", results=True, actor="anna", reason="")
        assert await opened.catalog.task("tsk_1") is None
        assert file.exists()

        stop, objects = asyncio.Event(), Objects()
        running = asyncio.create_task(
            TaskDeleter(opened.deletions, objects=objects, previews=Previews(), clock=FakeClock()).run(stop)
        )
        await wait_until(lambda: not file.exists() and bool(objects.removed))
        stop.set()
        await running


async def test_the_thumbnails_of_a_deleted_task_go_even_if_its_results_stay(store: Opened, tmp_path: Path) -> None:
    async with store as opened:
        file = await add_archived_task(opened, tmp_path / "results")
        previews = Previews()
        deleter = TaskDeleter(opened.deletions, objects=None, previews=previews, clock=FakeClock())

        await deleter.delete("tsk_1", results=False, actor="anna", reason="")

        assert previews.removed == ["tsk_1"]
        assert file.exists()


async def test_an_unknown_task_is_not_found(store: Opened) -> None:
    async with store as opened:
        deleter = TaskDeleter(opened.deletions, objects=None, previews=Previews(), clock=FakeClock())

        with pytest.raises(NotFound):
            await deleter.preview("tsk_none", results=False)
        with pytest.raises(NotFound):
            await deleter.delete("tsk_none", results=False, actor="anna", reason="")
