"""Downloads beside scripts that start and end all the time: every file is the one that its server sent.

A descriptor that is closed twice would close another thread's file. ``FILES`` is the number of downloads; `make soak`
uses 20,000.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import uvloop
from chaos.parameters import env_int
from harness.archive_system import LOOPBACK
from harness.result_files import a_file_server, source
from harness.soak_report import RecordCounts

from receiver.archive.fetcher import Fetcher, ResultFile
from receiver.delivery.senders.process import run
from receiver.domain.model import Asset
from receiver.net.http_client import HttpClient

FILES = env_int("FILES", 100)
CONCURRENCY = 4


async def download_all(folder: Path, server: str, numbers: Iterator[int]) -> list[str]:
    """Download files until none is left. Return those that differ from their source."""
    client, wrong = HttpClient(user_agent="kling-receiver/test", guard=LOOPBACK), []
    fetcher = Fetcher(client, free_space=lambda _: 1 << 40)
    for number in numbers:
        url = f"{server}/{number}"
        asset = await fetcher.fetch(folder, ResultFile(number=number, url=url, fetch_url=url))
        expected = source(number)
        if not isinstance(asset, Asset):
            wrong.append(f"{number}: {asset.reason}")
        elif (await asyncio.to_thread(Path(str(asset.path)).read_bytes), asset.sha256, asset.size) != (
            expected, hashlib.sha256(expected).digest(), len(expected),
        ):  # fmt: skip
            wrong.append(f"{number}: another file")
        else:
            await asyncio.to_thread(Path(str(asset.path)).unlink)
    await client.aclose()
    return wrong


async def run_scripts(stop: asyncio.Event) -> int:
    """Run scripts one after the other until *stop*. Return how many ran."""
    for ran in count():
        if stop.is_set():
            return ran
        result = await run(
            ["/bin/echo", "done"],
            content=b"{}",
            env={"PATH": os.defpath},
            cwd=None,
            time_limit=timedelta(seconds=30),
            output_limit=1000,
        )
        assert (result.code, result.output) == (0, b"done\n")
    raise AssertionError


@pytest.mark.soak("downloads beside scripts", minutes=15)
@pytest.mark.timeout(60 + FILES // 10)
def test_archived_files_equal_their_sources_while_scripts_end(tmp_path: Path, record_counts: RecordCounts) -> None:
    async def work() -> None:
        numbers, stop = iter(range(FILES)), asyncio.Event()
        async with a_file_server() as url, asyncio.TaskGroup() as group:
            scripts = [group.create_task(run_scripts(stop)) for _ in range(CONCURRENCY)]
            downloads = [group.create_task(download_all(tmp_path, url, numbers)) for _ in range(CONCURRENCY)]
            await asyncio.wait(downloads)
            stop.set()
        wrong = [line for each in downloads for line in each.result()]
        record_counts(files=FILES, scripts=sum(each.result() for each in scripts), wrong_files=len(wrong))
        assert wrong == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
