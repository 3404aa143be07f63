"""The disk fills, or is none: what came stays, what is worth nothing goes, and it goes on when there is room."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, PNG, ArchiveSystem, a_cdn, an_archive_system, truncated_response
from harness.http_peers import respond_with, response
from harness.waiting import wait_until

from receiver.archive.partial_file import MIN_FREE_BYTES
from receiver.domain.model import ArchiveState
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.store.disk import free_bytes


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[ArchiveSystem]:
    async with an_archive_system(tmp_path) as system:
        yield system


async def test_a_full_disk_delays_downloads_until_there_is_space(system: ArchiveSystem) -> None:
    system.free_bytes = MIN_FREE_BYTES + len(PNG) - 1
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: len(cdn.requests) == 1)
        await system.advance_to_age(event, timedelta(seconds=10), lambda: True)
        assert system.files() == []
        system.free_bytes = MIN_FREE_BYTES + len(PNG)
        await system.advance_to_age(event, timedelta(seconds=40), lambda: True)
        assert len(await system.wait_for_assets(event)) == 1


async def test_a_disk_that_fills_up_stops_the_download_and_keeps_the_partial_file(system: ArchiveSystem) -> None:
    film = bytes(40 * 1024 * 1024)

    async def filling(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, film, content_type="video/mp4", etag='"v1"')[: -len(film)])
        writer.write(film[: 20 * 1024 * 1024])
        await writer.drain()
        system.free_bytes = MIN_FREE_BYTES - 1
        writer.write(film[20 * 1024 * 1024 :])

    async with a_cdn(a=filling) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        assert await system.wait_for_assets(event, ArchiveState.LATE) == []

    [(_, alert)] = await system.alerts()
    assert alert["results"][0]["reason"].startswith("The disk is almost full.")


async def test_an_alert_names_a_folder_that_cannot_be_created(system: ArchiveSystem) -> None:
    system.folder.write_text("a file in its place")
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event, ArchiveState.LATE)

    [(_, alert)] = await system.alerts()
    assert "Not a directory" in alert["results"][0]["reason"] or "File exists" in alert["results"][0]["reason"]
    assert cdn.connections == 0


async def test_an_unusable_partial_file_is_not_counted_as_used_space(system: ArchiveSystem) -> None:
    room = MIN_FREE_BYTES + len(PNG)

    def free(folder: Path) -> int:
        return room - sum(file.stat().st_size for file in folder.glob("*.part"))

    async with a_cdn(a=truncated_response(PNG, after=5000, content_type="image/png")) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start(free_bytes=free)  # and nothing tells what came from a later file of the same name
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        cdn.handler = respond_with(response(200, PNG, content_type="image/png"))
        await system.advance_to_age(event, timedelta(seconds=20), lambda: True)
        [asset] = await system.wait_for_assets(event)

    assert system.content(asset) == PNG


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of four megabytes, where the results go."""
    if not Path("/bin/mount").exists():
        pytest.skip("NOT TESTED: there is no mount here")
    folder = tmp_path / "results"
    folder.mkdir()
    mounted = subprocess.run(mount(folder, "size=4m"), capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: nothing may be mounted here: {mounted.stderr.strip()[:200]}")
    yield folder
    subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


def mount(folder: Path, options: str) -> list[str]:
    return ["/bin/mount", "-t", "tmpfs", "-o", options, "kling-receiver-test", str(folder)]


async def test_a_completely_full_disk_loses_nothing_and_resumes_with_space(
    system: ArchiveSystem, small_disk: Path
) -> None:
    film = b"\0\0\0\x20ftypisom" + bytes(6 * 1024 * 1024)
    headers = {"content_type": "video/mp4", "etag": '"v1"'}
    async with a_cdn(film=response(200, film, **headers), a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/film", f"{cdn.url}/a")
        system.start()  # others fill the disk behind the guard's back: it is told of room that is not there
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event, ArchiveState.LATE)
        [(_, alert)] = await system.alerts()
        [reason] = [one["reason"] for one in alert["results"] if one["number"] == 0]
        assert reason == (
            "The file could not be written: No space left on device. "
            "Free space under [archive] dir; the download is retried."
        )
        assert not (small_disk / str(event.task_id) / event.id / "0.mp4").exists()

        await asyncio.to_thread(subprocess.run, mount(small_disk, "remount,size=32m"), check=True)
        await system.advance_to_age(event, 2 * MAX_ARCHIVE_WAIT, lambda: True)
        assets = await system.wait_for_assets(event)

    assert [system.content(asset) for asset in assets] == [film, PNG]
    assert system.files() == [f"{event.task_id}/{event.id}/{name}" for name in ("0.mp4", "1.png")]


@pytest.mark.usefixtures("small_disk")
async def test_a_really_full_disk_is_detected(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start(free_bytes=free_bytes)
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event, ArchiveState.LATE)

    [(_, alert)] = await system.alerts()
    assert alert["results"][0]["reason"].startswith("The disk is almost full.")
    assert system.files() == []
