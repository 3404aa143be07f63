"""An archive folder that cannot be written to is reported at the start and by the readiness check, with the reason."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from harness.raw_http import http_request
from harness.running_service import SLOW_INTERVAL, Receiver, a_config
from harness.waiting import wait_until

from receiver.archive import folder_check
from receiver.archive.folder_check import FolderCheck, writing_problem


async def test_an_unwritable_archive_folder_is_reported_until_it_is_writable(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:1", more='[archive]\ndir = "results/here"\n'))
    answer: dict[str, Any] = {}

    async def has_answered() -> bool:
        try:
            response = await http_request("GET", f"{receiver.admin}/readyz")
        except (OSError, asyncio.IncompleteReadError):
            return False
        answer.update(json.loads(response.body), status_code=response.status)
        return True

    receiver.spawn()
    try:
        await wait_until(has_answered, seconds=60, interval=SLOW_INTERVAL)
        await wait_until(lambda: bool(receiver.log_entries("service.ready")))
        await has_answered()
        failed = [check for check in answer["checks"] if not check["ok"]]
        assert answer["status_code"] == 503
        assert [check["name"] for check in failed] == ["archive"]
        reason = failed[0]["reason"]
        assert f"Results cannot be written to {tmp_path}/results/here: " in reason
        assert "Remove" in reason
        assert receiver.log_entries("archive.not_writable")[0]["reason"] == reason

        (tmp_path / "results").unlink()
        await receiver.wait_until_ready()

        assert (tmp_path / "results" / "here").is_dir()
        assert await receiver.stop() == 0
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()


def test_a_writable_archive_folder_passes_and_stays_empty(tmp_path: Path) -> None:
    assert writing_problem(tmp_path / "new" / "results") == ""
    assert list((tmp_path / "new" / "results").iterdir()) == []


async def test_an_unresponsive_disk_blocks_one_thread_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    respond = threading.Event()
    started: list[Path] = []

    def wait_for_disk(folder: Path) -> str:
        started.append(folder)
        respond.wait()
        return ""

    monkeypatch.setattr(folder_check, "_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(folder_check, "writing_problem", wait_for_disk)
    check = FolderCheck(tmp_path)

    problems = [await check.problem() for _ in range(3)]
    respond.set()

    assert len(started) == 1
    assert all("does not respond" in each for each in problems)
    assert await check.problem() == ""
