"""A result's file: verified against the bytes received, readable by the group, and never an error document."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, PNG, ArchiveSystem, FakeUrlRefresher, a_cdn, truncated_response
from harness.http_peers import respond_with, response
from harness.waiting import wait_until

from receiver.archive.partial_file import PartialFile
from receiver.domain.errors import FileNotStored
from receiver.domain.model import ArchiveState
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.net.download import ContentInfo

MIB = 1024 * 1024
TAG = {"content_type": "image/png", "etag": '"v1"'}


def change(file: Path) -> None:
    """Change a file, as a thread does that writes to a wrong descriptor."""
    with file.open("r+b") as other:
        other.write(b"of another")


def files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_a_file_that_differs_on_the_disk_gets_no_name_and_is_downloaded_again(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path, 0, free_space=lambda _: 1 << 40)
    assert await partial.open() is None
    await partial.start(ContentInfo(offset=0, size=None, content_type="image/png", validator=None))
    await partial.write(b"\x89PNG" + bytes(MIB))
    change(tmp_path / "0.png.part")
    await partial.write(bytes(MIB))

    with pytest.raises(FileNotStored, match="differs from the bytes that were received"):
        await partial.finish("https://cdn.example.com/")

    assert files(tmp_path) == []
    assert partial.offset == 0


async def test_a_part_that_changed_on_the_disk_is_downloaded_again(system: ArchiveSystem) -> None:
    async with a_cdn(a=truncated_response(PNG, after=1000, **TAG)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        change(system.folder / str(event.task_id) / event.id / "0.png.part")
        cdn.handler = respond_with(response(200, PNG, **TAG))
        await system.advance_to_age(event, timedelta(seconds=20), lambda: len(cdn.requests) > 1)
        [asset] = await system.wait_for_assets(event)

    assert "range" not in cdn.requests[-1].headers
    assert system.content(asset) == PNG


@pytest.fixture(params=[0o077, 0o000, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_results_are_readable_by_the_group_under_any_umask(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG, b=truncated_response(PNG, after=1000, **TAG)) as cdn:
        await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start()
        await wait_until(lambda: any(name.endswith("/.1.part") for name in system.files()))
        await wait_until(lambda: any(name.endswith("/0.png") for name in system.files()))

    modes = {path.relative_to(system.folder): path.stat().st_mode & 0o7777 for path in system.folder.rglob("*")}
    assert system.folder.stat().st_mode & 0o7777 == 0o750
    assert [mode for path, mode in modes.items() if (system.folder / path).is_dir()] == [0o750, 0o750]
    assert {path.name: mode for path, mode in modes.items() if path.suffix} == {
        "0.png": 0o640, "1.png.part": 0o640, ".1.part": 0o640,
    }  # fmt: skip


async def test_new_folders_keep_the_group_of_the_archive_folder(system: ArchiveSystem) -> None:
    system.folder.mkdir()
    system.folder.chmod(0o2770)
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert [path.stat().st_mode & 0o7777 for path in Path(asset["path"]).parents[:3]] == [0o2750, 0o2750, 0o2770]


@pytest.mark.parametrize(
    ("body", "content_type", "document"),
    [
        (b'{"code": 404, "message": "expired"}', "application/json", "a document in JSON"),
        (b"<Error><Code>AccessDenied</Code></Error>", "application/octet-stream", "a document in XML"),
        (b"<!doctype html><title>log in</title>", "image/png", "a web page"),
    ],
)
async def test_an_error_document_with_status_200_is_retried_and_named(
    system: ArchiveSystem, body: bytes, content_type: str, document: str
) -> None:
    async with a_cdn(a=response(200, body, content_type=content_type)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: len(cdn.requests) > 1)
        await system.wait_for_assets(event, ArchiveState.LATE)
        [(_, alert)] = await system.alerts()
        assert alert["results"][0]["reason"] == f"The server sent {document} instead of a file."
        assert alert["results"][0]["still_tried"]
        assert not any("part" in name or name.endswith(".png") for name in system.files())

        cdn.handler = respond_with(A_PNG)
        await system.advance_to_age(event, 2 * MAX_ARCHIVE_WAIT, lambda: True)
        [asset] = await system.wait_for_assets(event)

    assert system.content(asset) == PNG


async def test_a_url_that_answers_an_error_document_is_replaced_by_a_fresh_one(system: ArchiveSystem) -> None:
    async with a_cdn(a=response(200, b'{"code": 404}', content_type="application/json"), b=A_PNG) as cdn:
        system.url_refresher = FakeUrlRefresher(f"{cdn.url}/b")
        event = await system.succeed_task(f"{cdn.url}/a", kling_id="867283741759111202")
        system.start()
        await system.advance_to_age(event, timedelta(minutes=2), lambda: True)
        [asset] = await system.wait_for_assets(event)

    assert (asset["url"], system.content(asset)) == (f"{cdn.url}/a", PNG)
