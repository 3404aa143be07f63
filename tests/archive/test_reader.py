"""Archived files are closed, whatever happens while they are read."""

import asyncio
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.archived_results import write_result
from harness.waiting import wait_until

from receiver.archive import reader
from receiver.archive.reader import ArchiveReader


async def test_a_file_whose_reader_is_cancelled_while_it_is_opened_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = write_result(tmp_path, "tsk_1", "evt_1", b"picture")
    opened: list[int] = []
    may_go_on = threading.Event()
    open_beneath = reader.open_beneath

    def open_slowly(folder: Path, place: Sequence[str]) -> int:
        opened.append(open_beneath(folder, place))
        assert may_go_on.wait(60)
        return opened[0]

    async def read() -> None:
        async with ArchiveReader().open(result):
            raise AssertionError("it was cancelled before")

    monkeypatch.setattr(reader, "open_beneath", open_slowly)
    reading = asyncio.create_task(read())
    await wait_until(lambda: bool(opened))
    reading.cancel()
    await asyncio.sleep(0)
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
