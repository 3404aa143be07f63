"""The disk fails under the real service during callbacks: it acknowledges nothing more and exits with 1.

strace makes one system call of each thread fail; all others succeed. A service that did not stop by itself would
continue. The same record shows the order of the process's answers and the fault.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from chaos.strace import attach, requires_strace
from harness.load import START_NUMBER, LoadReport, a_load_config, generate_load, wait_until_delivered
from harness.running_service import Receiver, a_receiver, a_sink
from harness.soak_report import RecordCounts

FAILING_CALLS = ("fdatasync", "pwrite64", "pread64")
FAULTS = env_int("FAULTS", 1) * len(FAILING_CALLS)
RESPONSE_CALLS = "write,writev,sendmsg,sendto"
PAGE, WAL_HEAD, FRAME_HEAD = 4096, 32, 24

_SUCCESS_RESPONSE, _INJECTED, _DETECTED = '"HTTP/1.1 20', "(INJECTED)", "store.damaged"

pytestmark = [requires_strace, pytest.mark.timeout(120 + 20 * FAULTS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTrace:
    """What a process did around the fault: whether it occurred, and what was acknowledged after it."""

    faults: int
    acknowledged_after_fault: int
    acknowledged_after_detection: int

    @classmethod
    def parse(cls, log: Path) -> "FaultTrace":
        faults = since_the_fault = since_it_was_known = 0
        is_known = False
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                faults += _INJECTED in line
                is_known |= _DETECTED in line
                since_the_fault += _SUCCESS_RESPONSE in line and faults > 0
                since_it_was_known += _SUCCESS_RESPONSE in line and is_known
        assert is_known, "the process never learned of it"
        return cls(
            faults=faults, acknowledged_after_fault=since_the_fault, acknowledged_after_detection=since_it_was_known
        )


async def trace_until_exit(receiver: Receiver, log: Path, *options: str) -> FaultTrace:
    """Trace a process until it exits by itself, which must be with 1. Return its last actions."""
    assert receiver.process is not None
    trace = ["-s", "200", *options]
    strace = await asyncio.to_thread(attach, receiver.process.pid, options=trace, log=log)
    with strace:
        assert await receiver.wait_for_exit(seconds=60) == 1
    return FaultTrace.parse(log)


@pytest.mark.soak("EIO under load", minutes=8)
async def test_an_io_error_ends_the_process_and_loses_nothing_acknowledged(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng, mark = Random(seed), tmp_path / "var" / "receiver.db.suspect"
    record_counts(seed=seed, faults=FAULTS, of=", ".join(FAILING_CALLS))
    async with (
        a_sink() as sink,
        a_receiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver,
    ):
        on_their_way = 0
        async with generate_load(receiver) as load:
            for life in range(1, FAULTS + 1):
                call = FAILING_CALLS[life % len(FAILING_CALLS)]
                await load.wait_for_acknowledged(rng.randrange(20, 150))
                inject = ["-e", f"trace={call},{RESPONSE_CALLS}", "-e", f"inject={call}:error=EIO:when=1"]
                order = await trace_until_exit(receiver, tmp_path / "strace", *inject)

                assert order.faults >= 1
                assert order.acknowledged_after_detection == 0, f"SEED={seed}, {call}"
                assert order.acknowledged_after_fault <= load.client_count, "more than was committed and on its way"
                on_their_way += order.acknowledged_after_fault
                assert mark.exists()
                receiver.environ[START_NUMBER] = str(life)
                await receiver.start()
                assert not mark.exists()
            await load.wait_for_acknowledged(20)
        await wait_until_delivered(receiver)
        report = LoadReport.from_run(load, sink)

        record_counts(
            callbacks_acknowledged=report.acknowledged,
            of_them_lost=report.lost,
            events_undelivered=report.undelivered,
            acknowledged_after_the_fault_was_known=0,
            committed_before_it_and_on_their_way=on_their_way,
        )
        assert (report.lost, report.undelivered, report.unknown, report.duplicates_within_run) == (0, 0, 0, 0)
        assert set(load.statuses) <= {200, 201, 503}
        assert (await receiver.run_cli_async("db", "check")).returncode == 0
        assert await receiver.stop() == 0


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
async def test_an_io_error_during_a_checkpoint_ends_the_process(tmp_path: Path, call: str) -> None:
    path = tmp_path / "var" / "receiver.db"
    async with a_sink() as sink, a_receiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver:
        async with generate_load(receiver) as load:
            assert receiver.process is not None
            fault = ["-P", str(path), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=1"]
            with await asyncio.to_thread(attach, receiver.process.pid, options=fault, log=tmp_path / "strace"):
                assert await receiver.wait_for_exit(seconds=60) == 1
            receiver.environ[START_NUMBER] = "1"
            await receiver.start()
        await wait_until_delivered(receiver)

        report = LoadReport.from_run(load, sink)
        assert (report.lost, report.undelivered, report.unknown, report.duplicates_within_run) == (0, 0, 0, 0)


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_removed_store_ends_the_process_before_the_next_acknowledgement(tmp_path: Path, how: str) -> None:
    path, moved = tmp_path / "var" / "receiver.db", tmp_path / "moved.db"
    async with a_sink() as sink, a_receiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver:
        assert (await receiver.run_cli_async("db", "backup", str(tmp_path / "other.db"))).returncode == 0
        async with generate_load(receiver) as load:
            await load.wait_for_acknowledged(50)
            path.rename(moved)
            if how == "replaced":
                (tmp_path / "other.db").rename(path)
            code = await receiver.wait_for_exit()
            receiver.spawn()
            again = await receiver.wait_for_exit()

            assert (code, again) == (1, 1)
            (said,) = receiver.log_entries("store.damaged")
            assert f"was {how}" in said["reason"]
            assert "Restore the original file" in said["remedy"]
            moved.rename(path)
            receiver.environ[START_NUMBER] = "1"
            await receiver.start()
        await wait_until_delivered(receiver)

        report = LoadReport.from_run(load, sink)
        assert (report.lost, report.undelivered, report.unknown) == (0, 0, 0)
        assert await receiver.stop() == 0


def damage(path: Path, *, head: bool) -> None:
    """Overwrite the first page of an open store, or all other pages, in its file and its log."""
    rubbish = b"\xa5" * PAGE
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for offset in [0] if head else range(PAGE, size, PAGE):
            os.pwrite(file.fileno(), rubbish, offset)
    with suppress(FileNotFoundError), path.with_name(f"{path.name}-wal").open("r+b") as log:
        for offset in range(WAL_HEAD, os.fstat(log.fileno()).st_size, FRAME_HEAD + PAGE):
            is_first = int.from_bytes(os.pread(log.fileno(), 4, offset)) == 1
            if is_first is head:
                os.pwrite(log.fileno(), rubbish, offset + FRAME_HEAD)


@pytest.mark.soak("damaged under load")
@pytest.mark.parametrize(
    ("head", "reason"), [(False, "malformed"), (True, "not a database")], ids=["CORRUPT", "NOTADB"]
)
async def test_a_damaged_store_ends_the_process_and_is_refused_at_the_start(
    tmp_path: Path, head: bool, reason: str, record_counts: RecordCounts
) -> None:
    path = tmp_path / "var" / "receiver.db"
    async with a_sink() as sink, a_receiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver:
        async with generate_load(receiver) as load:
            await load.wait_for_acknowledged(50)
            ending = asyncio.create_task(
                trace_until_exit(receiver, tmp_path / "strace", "-e", f"trace={RESPONSE_CALLS}")
            )
            await load.wait_for_acknowledged(20)
            while not ending.done():  # the store rewrites hot pages, so damage them repeatedly
                damage(path, head=head)
                await asyncio.sleep(0.02)
            order = await ending
        damage(path, head=head)
        receiver.spawn()
        again = await receiver.wait_for_exit()

        record_counts(
            callbacks_acknowledged=len(load.acknowledged),
            acknowledged_after_it_was_known=order.acknowledged_after_detection,
        )
        assert order.acknowledged_after_detection == 0
        assert [reason in said["reason"] for said in receiver.log_entries("store.damaged")[:1]] == [True]
        assert again == 1
        assert "restore a backup" in receiver.log().splitlines()[-1].lower()
        checked = await receiver.run_cli_async("db", "check")
        assert (checked.returncode, checked.stdout.count("\n") > 0) == (1, True)
