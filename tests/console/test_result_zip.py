"""The results as one zip: each file as it is in the archive, under a name that people know."""

import asyncio
import csv
import io
import random
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from harness.clock import START
from harness.finished_tasks import a_finished_task
from harness.open_files import open_paths
from harness.waiting import wait_until
from harness.web_app import READ_TOKEN, TOKEN, WebApp

pytestmark = pytest.mark.asyncio(loop_scope="session")

ZIP = "/console/results.zip"


def a_file(seed: int, size: int = 1000) -> tuple[bytes, str]:
    return random.Random(seed).randbytes(size), "image/png"


async def a_task_with(web: WebApp, folder: Path, *files: tuple[bytes, str] | None, **details: str) -> str:
    tags = {"project": details.pop("project")} if "project" in details else {}
    return await a_finished_task(
        web.store, web.ids, folder / "results", *files, at=web.clock.now(), tags=tags, **details
    )


async def download(web: WebApp, query: str = "") -> zipfile.ZipFile:
    answer = await web.client.get(ZIP + query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["x-content-type-options"] == "nosniff"
    opened = zipfile.ZipFile(io.BytesIO(answer.content))
    assert opened.testzip() is None
    return opened


def manifest(opened: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(opened.read("manifest.csv").decode())))


async def test_every_file_is_in_the_zip_as_it_is_in_the_archive(web: WebApp, tmp_path: Path) -> None:
    first, second, large = a_file(1), a_file(2), a_file(3, 3_000_000)
    await a_task_with(web, tmp_path, first, second, label="Two cats")
    named = await a_task_with(web, tmp_path, large, label="../../etc/passwd")
    unnamed = await a_task_with(web, tmp_path, a_file(4))
    twins = [await a_task_with(web, tmp_path, a_file(seed), label=label) for seed, label in ((5, "Twin"), (6, "twin"))]

    opened = await download(web)

    assert {name: opened.read(name) for name in opened.namelist() if name != "manifest.csv"} == {
        "Two-cats-1.png": first[0],
        "Two-cats-2.png": second[0],
        "etc-passwd.png": large[0],
        f"{unnamed}.png": a_file(4)[0],
        f"Twin-{twins[0]}.png": a_file(5)[0],
        f"twin-{twins[1]}.png": a_file(6)[0],
    }
    assert {row["task"] for row in manifest(opened) if row["file"] == "etc-passwd.png"} == {named}
    assert opened.getinfo("etc-passwd.png").compress_type == zipfile.ZIP_STORED


async def test_the_filter_and_the_selection_choose_the_tasks(web: WebApp, tmp_path: Path) -> None:
    spring = await a_task_with(web, tmp_path, a_file(1), label="spring", batch="spring", project="ads")
    web.clock.advance(timedelta(days=1))
    later = await a_task_with(web, tmp_path, a_file(2), label="later")
    choices = {
        "?batch=spring": {spring},
        "?tag=project:ads": {spring},
        f"?day={START:%Y-%m-%d}": {spring},
        f"?id={later}": {later},
        f"?id={later}&id={spring}": {spring, later},
    }

    for query, tasks in choices.items():
        assert {row["task"] for row in manifest(await download(web, query))} == tasks, query


async def test_a_missing_result_is_only_in_the_manifest(web: WebApp, tmp_path: Path) -> None:
    await a_task_with(web, tmp_path, a_file(1), None, label="=HYPERLINK(1)")
    gone = await a_task_with(web, tmp_path, a_file(2), label="gone")
    next((tmp_path / "results" / gone).rglob("0.png")).unlink()

    opened = await download(web)

    rows = {row["label"]: row for row in manifest(opened)}
    assert opened.namelist() == ["HYPERLINK-1-1.png", "manifest.csv"]
    assert "deleted or moved" in rows["gone"]["message"]
    assert [row["message"] for row in manifest(opened)].count("not archived") == 1
    assert "'=HYPERLINK(1)" in rows


@pytest.mark.parametrize("query", ["?batch=none", "?id=tsk_none", "?day=2026-13-01", "?day=x", "?tag=x", "?other=1"])
async def test_a_zip_of_no_results_is_refused(web: WebApp, tmp_path: Path, query: str) -> None:
    await a_task_with(web, tmp_path, a_file(1))

    answer = await web.client.get(ZIP + query)

    assert answer.status_code == 400
    assert answer.json()["detail"]


async def test_a_reader_may_download(web: WebApp, tmp_path: Path) -> None:
    await a_task_with(web, tmp_path, a_file(1))

    answer = await web.client.get(ZIP, headers={"authorization": f"Bearer {READ_TOKEN}"})

    assert answer.status_code == 200


async def test_a_client_that_disconnects_frees_its_download_slot(web: WebApp, tmp_path: Path) -> None:
    await a_task_with(web, tmp_path, a_file(1, 20_000_000))
    head = f"GET {ZIP} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()
    writers = []
    for _ in range(10):
        _, writer = await asyncio.open_connection(web.admin.host, web.admin.port, limit=1024)
        writer.write(head)
        writers.append(writer)
    await wait_until(lambda: open_files(tmp_path) == 8)  # the others wait

    for writer in writers:
        writer.transport.abort()

    await wait_until(lambda: open_files(tmp_path) == 0)
    await download(web)
    for writer in writers:
        writer.close()


def open_files(folder: Path) -> int:
    """Return how many result files this process has open."""
    return sum(str(target).startswith(f"{folder}/results/") for target in open_paths())
