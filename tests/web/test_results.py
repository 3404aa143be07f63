"""Archived files over HTTP: the whole file or a range of it, of a safe type, and only what the store recorded."""

import asyncio
import contextlib
import io
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from harness.archived_results import archive_file
from harness.open_files import open_paths
from harness.waiting import wait_until
from harness.web_app import READ_TOKEN, TOKEN, WebApp
from PIL import Image

from receiver.store.interfaces import StoredResult
from receiver.web.resources.results import MAX_MEDIA_PART, MAX_OPEN

CONTENT = random.Random(1).randbytes(300_000)
SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


@pytest.fixture
async def result(web: WebApp, tmp_path: Path) -> StoredResult:
    return await an_archived_file(web, tmp_path)


async def an_archived_file(web: WebApp, folder: Path, content: bytes = CONTENT, **changes: Any) -> StoredResult:
    return await archive_file(web.store, web.ids, folder / "results", content, **changes)


def path_of(result: StoredResult, name: str = "0.png") -> str:
    return f"/results/{result.task_id}/{name}"


async def test_a_file_is_sent_whole(web: WebApp, result: StoredResult) -> None:
    answer = await web.client.get(path_of(result))

    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == f'inline; filename="{result.task_id}-0.png"'
    assert answer.headers["etag"] == f'"{result.asset.sha256.hex()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert SAFE.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("range_", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=100-65999", slice(100, 66_000)),
        ("bytes=299999-", slice(299_999, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=-999999", slice(0, None)),
        ("bytes=10-9999999999999999999", slice(10, None)),
    ],
)
async def test_a_range_is_sent(web: WebApp, result: StoredResult, range_: str, part: slice) -> None:
    answer = await web.client.get(path_of(result), headers={"range": range_})

    first, stop, _ = part.indices(len(CONTENT))
    assert (answer.status_code, answer.content) == (206, CONTENT[part])
    assert answer.headers["content-range"] == f"bytes {first}-{stop - 1}/{len(CONTENT)}"
    assert SAFE.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    "range_",
    [
        "bytes=0-1,5-6",
        "bytes=" + ",".join(["0-"] * 1300),
        "bytes=5-4",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1-2",
        "items=0-1",
        "bytes=" + "9" * 5000 + "-",
        "bytes=\u0663-",
    ],
)
async def test_other_ranges_get_the_whole_file(web: WebApp, result: StoredResult, range_: str) -> None:
    answer = await web.client.get(path_of(result), headers=[(b"range", range_.encode())])

    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_a_video_player_gets_a_file_in_ranges(web: WebApp, tmp_path: Path) -> None:
    result = await an_archived_file(web, tmp_path, CONTENT * 20, content_type="video/mp4")
    headers = {"range": "bytes=100-"}

    player = await web.client.get(path_of(result, "0.mp4"), headers={**headers, "sec-fetch-dest": "video"})
    program = await web.client.get(path_of(result, "0.mp4"), headers=headers)

    assert player.headers["content-range"] == f"bytes 100-{MAX_MEDIA_PART + 99}/6000000"
    assert len(player.content) == MAX_MEDIA_PART
    assert len(program.content) == 6_000_000 - 100


@pytest.mark.parametrize("range_", ["bytes=300000-", "bytes=300000-300001", "bytes=-0"])
async def test_a_range_after_the_end_is_refused(web: WebApp, result: StoredResult, range_: str) -> None:
    answer = await web.client.get(path_of(result), headers={"range": range_})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */300000"
    assert answer.json()["code"] == "range_not_satisfiable"


async def test_a_client_that_has_the_file_gets_304(web: WebApp, result: StoredResult) -> None:
    tag = f'"{result.asset.sha256.hex()}"'

    same = await web.client.get(path_of(result), headers={"if-none-match": f'"other", W/{tag}'})
    other = await web.client.get(path_of(result), headers={"if-none-match": '"other"'})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert other.status_code == 200


async def test_a_range_of_another_version_gets_the_whole_file(web: WebApp, result: StoredResult) -> None:
    tag = f'"{result.asset.sha256.hex()}"'

    same = await web.client.get(path_of(result), headers={"range": "bytes=0-9", "if-range": tag})
    other = await web.client.get(path_of(result), headers={"range": "bytes=0-9", "if-range": '"other"'})

    assert (same.status_code, len(same.content)) == (206, 10)
    assert (other.status_code, len(other.content)) == (200, len(CONTENT))


async def test_head_has_the_headers_of_get(web: WebApp, result: StoredResult) -> None:
    get = await web.client.get(path_of(result))
    head = await web.client.head(path_of(result), headers={"range": "bytes=0-1"})

    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) | {"date": ""} == dict(get.headers) | {"date": ""}


@pytest.mark.parametrize("type_", ["text/html", "image/svg+xml", "application/octet-stream", "application/pdf"])
async def test_a_file_of_another_type_is_a_download(web: WebApp, tmp_path: Path, type_: str) -> None:
    page = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    result = await an_archived_file(web, tmp_path, page, content_type=type_)

    answer = await web.client.get(path_of(result, "0.bin"))

    assert (answer.status_code, answer.content) == (200, page)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert SAFE.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    "name",
    [
        "1.png",
        "0.jpg",
        "0.png.part",
        "0",
        "..%2F..%2Freceiver.db",
        "%2e%2e%2f%2e%2e%2freceiver.db",
        "%2Fetc%2Fpasswd",
        "0.png%00",
        "00.png",
        "+0.png",
        "\u0660.png",
        "9999999999.png",
    ],
)
async def test_only_recorded_file_names_are_served(web: WebApp, result: StoredResult, name: str) -> None:
    answer = await web.client.get(path_of(result, name))

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_task_without_files_is_not_found(web: WebApp, result: StoredResult) -> None:
    answers = [
        await web.client.get(path) for path in ("/results/none/0.png", "/results/../0.png", "/results/a/b/0.png")
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert result.task_id not in answers[0].text


async def test_a_file_needs_a_token(web: WebApp, result: StoredResult) -> None:
    tokens = {"": 401, "Bearer wrong": 401, f"Bearer {READ_TOKEN}": 200, f"Bearer {TOKEN}": 200}

    for token, status in tokens.items():
        answer = await web.client.get(path_of(result), headers={"authorization": token})
        assert answer.status_code == status, token


async def test_a_deleted_file_is_not_found_with_the_reason(web: WebApp, result: StoredResult) -> None:
    file_of(result).unlink()

    answer = await web.client.get(path_of(result))

    assert answer.status_code == 404
    assert "deleted or moved" in answer.json()["detail"]


async def test_a_changed_file_is_not_sent(web: WebApp, result: StoredResult) -> None:
    file_of(result).write_bytes(CONTENT + b"more")

    answer = await web.client.get(path_of(result))

    assert answer.status_code == 404
    assert "its size has changed" in answer.json()["detail"]


@pytest.mark.parametrize("linked", ["file", "event folder", "task folder"])
async def test_a_link_is_not_followed(web: WebApp, result: StoredResult, tmp_path: Path, linked: str) -> None:
    file = file_of(result)
    place = {"file": file, "event folder": file.parent, "task folder": file.parent.parent}[linked]
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)

    answer = await web.client.get(path_of(result))

    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text


async def test_a_pipe_in_place_of_a_file_does_not_block(web: WebApp, result: StoredResult) -> None:
    file = file_of(result)
    file.unlink()
    os.mkfifo(file)

    async with asyncio.timeout(5):
        answer = await web.client.get(path_of(result))

    assert answer.status_code == 404


@pytest.mark.parametrize("place", ["/etc/passwd", "/etc/0.png", "results/tsk_1/evt_1/0.png"])
async def test_a_recorded_path_outside_the_archive_is_not_read(web: WebApp, tmp_path: Path, place: str) -> None:
    result = await an_archived_file(web, tmp_path, path=place)

    answer = await web.client.get(path_of(result))

    assert answer.status_code == 404
    assert "not one of the archive" in answer.json()["detail"]


async def test_a_file_that_becomes_shorter_ends_the_connection(web: WebApp, tmp_path: Path) -> None:
    result = await an_archived_file(web, tmp_path, CONTENT * 40)
    reader, _ = client = await a_slow_client(web, result)
    await wait_until(lambda: open_descriptors(result) == 1)

    os.truncate(str(result.asset.path), 0)
    content = await reader.read()

    assert len(content) < result.asset.size
    assert open_descriptors(result) == 0
    await leave(client)


async def test_slow_clients_hold_no_thread_and_their_files_are_closed(web: WebApp, tmp_path: Path) -> None:
    result = await an_archived_file(web, tmp_path, CONTENT * 40)
    threads = threading.active_count()

    clients = [await a_slow_client(web, result) for _ in range(40)]
    await wait_until(lambda: open_descriptors(result) == 40)
    others = [await web.client.get("/api/tasks") for _ in range(5)]
    await leave(*clients)

    assert [answer.status_code for answer in others] == [200] * 5
    assert threading.active_count() - threads <= (os.cpu_count() or 1) + 4  # the loop's own pool
    await wait_until(lambda: open_descriptors(result) == 0)


async def test_the_number_of_open_files_is_limited(web: WebApp, tmp_path: Path) -> None:
    result = await an_archived_file(web, tmp_path, CONTENT * 40)
    clients = [await a_slow_client(web, result) for _ in range(MAX_OPEN)]
    await wait_until(lambda: open_descriptors(result) == MAX_OPEN)

    refused = await web.client.get(path_of(result))
    await leave(*clients)
    await wait_until(lambda: open_descriptors(result) == 0)
    accepted = await web.client.head(path_of(result))

    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_downloads")
    assert accepted.status_code == 200


async def test_a_picture_has_a_thumbnail(web: WebApp, tmp_path: Path) -> None:
    result = await an_archived_file(web, tmp_path, a_picture())

    answer = await web.client.get(path_of(result, "0.preview.webp"))
    again = await web.client.get(path_of(result, "0.preview.webp"), headers={"if-none-match": answer.headers["etag"]})

    assert (answer.status_code, answer.headers["content-type"], answer.content[:4]) == (200, "image/webp", b"RIFF")
    assert SAFE.items() <= dict(answer.headers).items()
    assert (again.status_code, again.content) == (304, b"")


async def test_a_broken_picture_has_a_placeholder_that_is_not_cached(web: WebApp, result: StoredResult) -> None:
    answer = await web.client.get(path_of(result, "0.preview.webp"))

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.content)).size == (320, 240)
    assert answer.headers["cache-control"] == "no-store"
    assert SAFE.items() <= dict(answer.headers).items()


async def test_a_missing_result_has_no_thumbnail(web: WebApp, result: StoredResult) -> None:
    answers = [await web.client.get(path) for path in (path_of(result, "1.preview.webp"), "/results/x/0.preview.webp")]

    assert [answer.status_code for answer in answers] == [404, 404]


async def test_without_the_extra_there_are_no_thumbnails(web: WebApp, result: StoredResult) -> None:
    web.previews.is_installed = False

    answer = await web.client.get(path_of(result, "0.preview.webp"))

    assert answer.status_code == 404
    assert "kling-receiver[previews]" in answer.json()["detail"]


def a_picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    return file.getvalue()


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def a_slow_client(web: WebApp, result: StoredResult) -> Client:
    """Request a file, and read nothing beyond a small buffer."""
    reader, writer = await asyncio.open_connection(web.admin.host, web.admin.port, limit=1024)
    writer.write(
        f"GET {path_of(result)} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"authorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    return reader, writer


async def leave(*clients: Client) -> None:
    """Cut the connections."""
    for _, writer in clients:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def file_of(result: StoredResult) -> Path:
    return Path(str(result.asset.path))


def open_descriptors(result: StoredResult) -> int:
    """Return how often this process has the file open."""
    return open_paths().count(file_of(result))
