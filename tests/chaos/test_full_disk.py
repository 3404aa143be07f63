"""A disk that fills up under the whole process, to the low-water mark and to the last byte: nothing is lost.

The disk is a small one in memory, which somebody else fills.
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
from harness.load import LIFE, Audit, Traffic, a_config_for_traffic, calling
from harness.raw_http import Answer, ask
from harness.running_service import Receiver, Sink, a_config, a_push, a_receiver, a_sink, a_webhook_route, minted
from harness.soak_report import Tell
from harness.support import until

MIB = 1024 * 1024
SIZE, LOW_WATER = 96 * MIB, 64 * MIB
PENDING = "SELECT count(*) FROM deliveries WHERE status <> 'delivered'"


@cache
def why_not() -> str:
    """Say why no disk can be mounted here; nothing when one can."""
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
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)  # noqa: S607  # wherever it is


pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"NOT TESTED: {why_not()}")


class Disk:
    """A small disk, and somebody who fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def leave(self, left: int) -> None:
        """Fill the disk, or give room back, until so many bytes are left."""
        with self._ballast.open("ab") as ballast:
            os.truncate(ballast.fileno(), max(0, ballast.tell() - max(0, left - self.free())))
            while (room := self.free() - left) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, room)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:  # then the receiver took some of the room in between
                        raise


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder)
    try:
        yield Disk(folder)
    finally:
        unmount(folder)


async def refused(traffic: Traffic, count: int) -> None:
    """Wait until so many more were refused, and nothing was taken in between the last two looks."""
    enough = traffic.statuses[503] + count
    await until(lambda: traffic.statuses[503] >= enough, within=60)


def hold_back(sink: Sink) -> asyncio.Event:
    """Have a sink answer nobody until the gate that this gives is opened."""
    gate = asyncio.Event()

    async def answer() -> int:
        await gate.wait()
        return 204

    sink.answer = answer
    return gate


@pytest.mark.soak("disk full")
async def test_a_disk_that_fills_up_loses_nothing_and_all_resumes_when_there_is_room(disk: Disk, tell: Tell) -> None:
    async with a_sink() as sink, a_receiver(disk.folder, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver:
        gate = hold_back(sink)
        async with receiver.client() as client:
            _, url = await minted(client)
        async with calling(receiver, per_second=100) as traffic:
            await traffic.goes_on(100)

            disk.leave(LOW_WATER - MIB)
            await refused(traffic, 20)
            answered = await ask("POST", url, a_push("processing"))
            ready = await ask("GET", f"{receiver.admin}/readyz")
            taken = len(traffic.promised)
            waiting = receiver.rows(PENDING)[0][0]
            gate.set()
            await until(lambda: receiver.rows(PENDING) == [(0,)], within=60)

            assert (answered.status, answered.headers["retry-after"]) == (503, "5")
            assert (ready.status, [check["name"] for check in ready.json()["checks"] if not check["ok"]]) == (
                503,
                ["store"],
            )
            assert waiting > 0
            assert len(traffic.promised) == taken
            assert disk.free() > LOW_WATER // 2

            disk.leave(0)
            await refused(traffic, 20)
            assert len(traffic.promised) == taken
            disk.leave(LOW_WATER + 8 * MIB)
            await traffic.goes_on(100)
        await until(lambda: receiver.rows(PENDING) == [(0,)], within=60)

        audit = Audit.of(traffic, sink)
        tell(
            callbacks_acknowledged=audit.promised,
            of_them_lost=audit.lost,
            delivered_below_the_low_water_mark=waiting,
            events_undelivered=audit.undelivered,
            answers=traffic.statuses,
        )
        assert (audit.lost, audit.undelivered, audit.unknown, audit.twice_in_one_life) == (0, 0, 0, 0)
        assert set(traffic.statuses) == {200, 201, 503}
        assert await receiver.stop() == 0


async def test_a_shortage_of_room_is_told_of_once_and_so_is_its_end_through_a_kill(disk: Disk) -> None:
    async with a_sink() as sink:
        route = a_webhook_route(sink, extra='on = ["alert"]')
        async with a_receiver(disk.folder, a_config("http://127.0.0.1:9", more=route)) as receiver:
            async with receiver.client() as client:
                _, url = await minted(client)
            disk.leave(LOW_WATER - MIB)
            await until(lambda: "alert.disk_full" in sink.types, within=60)
            receiver.kill()
            receiver.spawn()
            assert (await until_answered(url)).status == 503
            ready = await ask("GET", f"{receiver.admin}/readyz")
            disk.leave(LOW_WATER + 16 * MIB)
            await receiver.ready()
            await until(lambda: "alert.disk_recovered" in sink.types, within=60)

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
async def test_a_start_on_a_full_disk_refuses_what_comes_and_goes_on_by_itself(disk: Disk, ending: str) -> None:
    async with a_sink() as sink, a_receiver(disk.folder, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver:
        gate = hold_back(sink)
        async with receiver.client() as client:
            _, url = await minted(client)
        async with calling(receiver, per_second=100) as traffic:
            await traffic.goes_on(50)
        if ending == "killed":
            disk.leave(0)
            receiver.kill()
        else:
            gate.set()
            assert await receiver.stop() == 0
            disk.leave(0)
        gate.set()

        receiver.environ[LIFE] = "1"
        receiver.spawn()
        answered = await until_answered(url)
        assert (answered.status, answered.headers["retry-after"]) == (503, "5")
        assert (await ask("GET", f"{receiver.public}/healthz")).status == 200
        disk.leave(LOW_WATER + 8 * MIB)
        await receiver.ready()
        assert (await ask("POST", url, a_push("processing"))).status == 200
        await until(lambda: receiver.rows(PENDING) == [(0,)], within=60)

        assert Audit.of(traffic, sink).lost == 0
        assert await receiver.stop() == 0


async def test_a_start_that_waits_for_room_says_so_and_can_be_stopped(disk: Disk, tmp_path: Path) -> None:
    receiver = Receiver(disk.folder, a_config("http://127.0.0.1:9"))
    receiver.log_path = tmp_path / "receiver.log"
    disk.leave(0)
    try:
        receiver.spawn()
        answered = await until_answered(f"{receiver.public}/callbacks/{'x' * 43}")
        ready = await ask("GET", f"{receiver.admin}/readyz")
        code = await receiver.stop()
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()

    assert answered.status == 503
    assert (ready.status, ready.json()["checks"][0]["reason"]) == (503, "The disk is full; the log says where.")
    (said,) = receiver.said("service.waiting_for_room")
    assert f"{disk.folder}/var has 0 KiB left, and to start takes 8192 KiB more" in said["reason"]
    assert "Make room" in said["remedy"]
    assert code == 0


async def until_answered(url: str) -> Answer:
    """Wait until anybody answers."""
    answers: list[Answer] = []

    async def is_answered() -> bool:
        try:
            answers.append(await ask("POST", url, a_push("processing")))
        except (OSError, asyncio.IncompleteReadError):
            return False
        return True

    await until(is_answered, within=60)
    return answers[0]
