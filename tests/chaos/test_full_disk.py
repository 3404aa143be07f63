"""A disk that fills up under the real service, to the low-water mark and to the last byte: nothing is lost.

The disk is a small tmpfs. The test fills it.
"""

import asyncio
import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from harness.load import START_NUMBER, LoadGenerator, LoadReport, a_load_config, generate_load, wait_until_delivered
from harness.raw_http import http_request, wait_until_answered
from harness.running_service import (
    Receiver,
    Sink,
    a_config,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
)
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

MIB = 1024 * 1024
SIZE, LOW_WATER = 96 * MIB, 64 * MIB
PENDING = "SELECT count(*) FROM deliveries WHERE status <> 'delivered'"


@cache
def unavailable_reason() -> str:
    """Return why a tmpfs cannot be mounted here, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mount(Path(folder))
        except (OSError, subprocess.CalledProcessError) as exc:
            said = exc.stderr.decode() if isinstance(exc, subprocess.CalledProcessError) else str(exc)
            return f"no disk may be mounted here: {said.strip()}"
        unmount(Path(folder))
    return ""


def mount(folder: Path) -> None:
    made = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(folder)]
    subprocess.run(made, check=True, capture_output=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)  # noqa: S607  # umount from PATH


pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason=f"NOT TESTED: {unavailable_reason()}")


class SmallDisk:
    """A small disk that the test can fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def free_bytes(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def fill_until(self, free: int) -> None:
        """Fill or free the disk until this many bytes are left."""
        with self._ballast.open("ab") as ballast:
            os.truncate(ballast.fileno(), max(0, ballast.tell() - max(0, free - self.free_bytes())))
            while (room := self.free_bytes() - free) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, room)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:  # ENOSPC: the receiver used some space meanwhile
                        raise


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder)
    try:
        yield SmallDisk(folder)
    finally:
        unmount(folder)


async def wait_for_rejections(load: LoadGenerator, count: int) -> None:
    """Wait for this many more rejections, with nothing accepted between the last two checks."""
    enough = load.statuses[503] + count
    await wait_until(lambda: load.statuses[503] >= enough, seconds=60)


def block_sink(sink: Sink) -> asyncio.Event:
    """Make a sink wait with its answers until the returned gate opens."""
    gate = asyncio.Event()

    async def answer() -> int:
        await gate.wait()
        return 204

    sink.answer = answer
    return gate


@pytest.mark.soak("disk full")
async def test_a_full_disk_loses_nothing_and_work_resumes_with_space(
    disk: SmallDisk, record_counts: RecordCounts
) -> None:
    async with a_sink() as sink, a_receiver(disk.folder, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver:
        gate = block_sink(sink)
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        async with generate_load(receiver, per_second=100) as load:
            await load.wait_for_acknowledged(100)

            disk.fill_until(LOW_WATER - MIB)
            await wait_for_rejections(load, 20)
            answered = await http_request("POST", url, a_push_body("processing"))
            ready = await http_request("GET", f"{receiver.admin}/readyz")
            taken = len(load.acknowledged)
            waiting = receiver.rows(PENDING)[0][0]
            gate.set()
            await wait_until_delivered(receiver)

            assert (answered.status, answered.headers["retry-after"]) == (503, "5")
            assert (ready.status, [check["name"] for check in ready.json()["checks"] if not check["ok"]]) == (
                503,
                ["store"],
            )
            assert waiting > 0
            assert len(load.acknowledged) == taken
            assert disk.free_bytes() > LOW_WATER // 2

            disk.fill_until(0)
            await wait_for_rejections(load, 20)
            assert len(load.acknowledged) == taken
            disk.fill_until(LOW_WATER + 8 * MIB)
            await load.wait_for_acknowledged(100)
        await wait_until_delivered(receiver)

        report = LoadReport.from_run(load, sink)
        record_counts(
            callbacks_acknowledged=report.acknowledged,
            of_them_lost=report.lost,
            delivered_below_the_low_water_mark=waiting,
            events_undelivered=report.undelivered,
            answers=load.statuses,
        )
        assert (report.lost, report.undelivered, report.unknown, report.duplicates_within_run) == (0, 0, 0, 0)
        assert set(load.statuses) == {200, 201, 503}
        assert await receiver.stop() == 0


async def test_a_disk_shortage_and_its_end_raise_one_alert_each_through_a_kill(disk: SmallDisk) -> None:
    async with a_sink() as sink:
        route = a_webhook_route(sink, extra='on = ["alert"]')
        async with a_receiver(disk.folder, a_config("http://127.0.0.1:9", more=route)) as receiver:
            async with receiver.client() as client:
                _, url = await create_callback_url(client)
            disk.fill_until(LOW_WATER - MIB)
            await wait_until(lambda: "alert.disk_full" in sink.types, seconds=60)
            receiver.kill()
            receiver.spawn()
            assert (await wait_until_answered("POST", url, a_push_body("processing"))).status == 503
            ready = await http_request("GET", f"{receiver.admin}/readyz")
            disk.fill_until(LOW_WATER + 16 * MIB)
            await receiver.wait_until_ready()
            await wait_until(lambda: "alert.disk_recovered" in sink.types, seconds=60)

            (check,) = [check for check in ready.json()["checks"] if not check["ok"]]
            assert (ready.status, check["name"]) == (503, "store")
            said = r"The store's disk is almost full: 6[0-3] MiB are left, .* below 64 MiB. Make room"
            alert = next(iter(sink.received.values()))[0]["data"]
            assert re.match(said, check["reason"])
            assert re.match(said, alert["message"])
            assert (alert["folder"], alert["needed"]) == (f"{disk.folder}/var", LOW_WATER)
            events = receiver.rows("SELECT type FROM events ORDER BY seq")
            assert events == [("alert.disk_full",), ("alert.disk_recovered",)]
            assert await receiver.stop() == 0


@pytest.mark.parametrize("ending", ["killed", "stopped"])
async def test_a_start_on_a_full_disk_refuses_requests_and_resumes_by_itself(disk: SmallDisk, ending: str) -> None:
    async with a_sink() as sink, a_receiver(disk.folder, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver:
        gate = block_sink(sink)
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        async with generate_load(receiver, per_second=100) as load:
            await load.wait_for_acknowledged(50)
        if ending == "killed":
            disk.fill_until(0)
            receiver.kill()
        else:
            gate.set()
            assert await receiver.stop() == 0
            disk.fill_until(0)
        gate.set()

        receiver.environ[START_NUMBER] = "1"
        receiver.spawn()
        answered = await wait_until_answered("POST", url, a_push_body("processing"))
        assert (answered.status, answered.headers["retry-after"]) == (503, "5")
        assert (await http_request("GET", f"{receiver.public}/healthz")).status == 200
        disk.fill_until(LOW_WATER + 8 * MIB)
        await receiver.wait_until_ready()
        assert (await http_request("POST", url, a_push_body("processing"))).status == 200
        await wait_until_delivered(receiver)

        assert LoadReport.from_run(load, sink).lost == 0
        assert await receiver.stop() == 0


async def test_a_start_that_waits_for_disk_space_can_be_stopped(disk: SmallDisk, tmp_path: Path) -> None:
    receiver = Receiver(disk.folder, a_config("http://127.0.0.1:9"))
    receiver.log_path = tmp_path / "receiver.log"
    disk.fill_until(0)
    try:
        receiver.spawn()
        answered = await wait_until_answered("POST", f"{receiver.public}/callbacks/{'x' * 43}")
        ready = await wait_until_answered("GET", f"{receiver.admin}/readyz")
        code = await receiver.stop()
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()

    assert answered.status == 503
    assert (ready.status, ready.json()["checks"][0]["reason"]) == (503, "The disk is full; the log has the folder.")
    (said,) = receiver.log_entries("service.waiting_for_disk")
    assert f"{disk.folder}/var has 0 KiB free, and starting needs 8192 KiB more" in said["reason"]
    assert "Free some space" in said["remedy"]
    assert code == 0
