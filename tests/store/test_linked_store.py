"""A store behind a symbolic link: SQLite keeps its log beside the real file, and so do the lock and the marker."""

import asyncio
from pathlib import Path

import pytest
from harness.factories import a_task
from store.conftest import a_sqlite_store

from receiver.domain.errors import StoreBroken, StoreLocked, StoreUnavailable
from receiver.store.sqlite import maintenance
from receiver.store.sqlite.migrate import migrate
from receiver.store.sqlite.store import SqliteStore


@pytest.fixture(params=["file", "folder", "file that does not exist yet", "relative"])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that leads to ``tmp_path/disk/receiver.db``."""
    disk, here = tmp_path / "disk", tmp_path / "var"
    disk.mkdir()
    if request.param == "folder":
        here.symlink_to(disk)
        return here / "receiver.db"
    here.mkdir()
    if request.param != "file that does not exist yet":
        migrate(disk / "receiver.db")
    to = Path("../disk") if request.param == "relative" else disk
    (here / "receiver.db").symlink_to(to / "receiver.db")
    return here / "receiver.db"


async def test_a_linked_store_keeps_its_files_beside_the_real_one(link: Path) -> None:
    async with a_sqlite_store(link) as store:
        task = await store.tasks.add(a_task(), b"")
        found = {file.name for file in (link.parents[1] / "disk").iterdir()}
        assert store.disk_space.folder == link.parents[1] / "disk"

    assert found == {"receiver.db", "receiver.db-wal", "receiver.db-shm", "receiver.db.lock"}
    async with a_sqlite_store(link) as store:
        assert (await store.catalog.task(task.id)) is not None
    assert maintenance.check(link) == []


async def test_the_link_and_the_real_path_share_one_lock(link: Path) -> None:
    async with a_sqlite_store(link):
        with pytest.raises(StoreLocked):
            await SqliteStore.open(link.parents[1] / "disk" / "receiver.db")


async def test_a_linked_store_is_checked_measured_and_backed_up(link: Path) -> None:
    target = link.parents[1] / "copy.db"
    async with a_sqlite_store(link) as store:
        await store.tasks.add(a_task(), b"")

        maintenance.backup(link, target)
        assert maintenance.stats_at(link)["tasks.submitted"] == 1
        assert maintenance.check(link) == []

    assert maintenance.check(target) == []


async def write_until_checkpointed(store: SqliteStore) -> None:
    for number in range(200):
        await store.tasks.add(a_task(id=f"tsk_{number}", external_task_id=f"tsk_{number}"), b"")


async def test_a_linked_store_that_is_removed_is_noticed(link: Path) -> None:
    real = link.parents[1] / "disk" / "receiver.db"
    async with a_sqlite_store(link) as store:
        await asyncio.to_thread(real.rename, real.with_name("moved.db"))
        with pytest.raises(StoreBroken, match="was removed"):
            await write_until_checkpointed(store)
        await asyncio.to_thread(real.with_name("moved.db").rename, real)


async def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "receiver.db"
    path.symlink_to(path)

    with pytest.raises(StoreUnavailable, match="symbolic links"):
        await SqliteStore.open(path)
