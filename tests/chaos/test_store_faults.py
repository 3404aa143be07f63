"""The disk fails under the whole process while callbacks come in: it acknowledges nothing more, and ends with 1.

strace lets one system call of each thread fail, and all the others work: a service that did not stop of its own would
go on. The same record shows in which order the process did things: its answers, and the fault.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import fresh_seed, number
from chaos.strace import attaching, needs_strace
from harness.load import LIFE, Audit, a_config_for_traffic, calling
from harness.running_service import Receiver, a_receiver, a_sink
from harness.soak_report import Tell
from harness.support import until

FAILING = ("fdatasync", "pwrite64", "pread64")
FAULTS = number("FAULTS", 1) * len(FAILING)
ANSWERS = "write,writev,sendmsg,sendto"
PAGE, WAL_HEAD, FRAME_HEAD = 4096, 32, 24

_GOOD, _INJECTED, _KNOWN = '"HTTP/1.1 20', "(INJECTED)", "store.damaged"

pytestmark = [needs_strace, pytest.mark.timeout(120 + 20 * FAULTS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a process did around the fault: whether there was one, and what it acknowledged since."""

    faults: int
    since_the_fault: int
    since_it_was_known: int

    @classmethod
    def of(cls, log: Path) -> "Order":
        faults = since_the_fault = since_it_was_known = 0
        is_known = False
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                faults += _INJECTED in line
                is_known |= _KNOWN in line
                since_the_fault += _GOOD in line and faults > 0
                since_it_was_known += _GOOD in line and is_known
        assert is_known, "the process never learned of it"
        return cls(faults=faults, since_the_fault=since_the_fault, since_it_was_known=since_it_was_known)


async def ends_at(receiver: Receiver, log: Path, *options: str) -> Order:
    """Trace a process until it ends of itself, which must be with 1; tell what it did last."""
    assert receiver.process is not None
    trace = ["-s", "200", *options]
    strace = await asyncio.to_thread(attaching, receiver.process.pid, options=trace, log=log)
    with strace:
        assert await receiver.exit_code(within=60) == 1
    return Order.of(log)


@pytest.mark.soak("EIO under load", minutes=8)
async def test_on_an_io_error_nothing_more_is_acknowledged_the_process_ends_with_1_and_nothing_is_lost(
    tmp_path: Path, tell: Tell
) -> None:
    seed = fresh_seed()
    rng, mark = Random(seed), tmp_path / "var" / "receiver.db.suspect"
    tell(seed=seed, faults=FAULTS, of=", ".join(FAILING))
    async with (
        a_sink() as sink,
        a_receiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver,
    ):
        on_their_way = 0
        async with calling(receiver) as traffic:
            for life in range(1, FAULTS + 1):
                call = FAILING[life % len(FAILING)]
                await traffic.goes_on(rng.randrange(20, 150))
                inject = ["-e", f"trace={call},{ANSWERS}", "-e", f"inject={call}:error=EIO:when=1"]
                order = await ends_at(receiver, tmp_path / "strace", *inject)

                assert order.faults >= 1
                assert order.since_it_was_known == 0, f"SEED={seed}, {call}"
                assert order.since_the_fault <= traffic.callers, "more than was committed and on its way"
                on_their_way += order.since_the_fault
                assert mark.exists()
                receiver.environ[LIFE] = str(life)
                await receiver.start()
                assert not mark.exists()
            await traffic.goes_on(20)
        await until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'") == [(0,)])
        audit = Audit.of(traffic, sink)

        tell(
            callbacks_acknowledged=audit.promised,
            of_them_lost=audit.lost,
            events_undelivered=audit.undelivered,
            acknowledged_after_the_fault_was_known=0,
            committed_before_it_and_on_their_way=on_their_way,
        )
        assert (audit.lost, audit.undelivered, audit.unknown, audit.twice_in_one_life) == (0, 0, 0, 0)
        assert set(traffic.statuses) <= {200, 201, 503}
        assert (await receiver.command("db", "check")).returncode == 0
        assert await receiver.stop() == 0


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
async def test_an_io_error_while_the_log_is_moved_into_the_file_is_one_as_well(tmp_path: Path, call: str) -> None:
    path = tmp_path / "var" / "receiver.db"
    async with a_sink() as sink, a_receiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver:
        async with calling(receiver) as traffic:
            assert receiver.process is not None
            fault = ["-P", str(path), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=1"]
            with await asyncio.to_thread(attaching, receiver.process.pid, options=fault, log=tmp_path / "strace"):
                assert await receiver.exit_code(within=60) == 1
            receiver.environ[LIFE] = "1"
            await receiver.start()
        await until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'") == [(0,)])

        audit = Audit.of(traffic, sink)
        assert (audit.lost, audit.undelivered, audit.unknown, audit.twice_in_one_life) == (0, 0, 0, 0)


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_store_taken_away_under_load_is_noticed_before_anything_more_is_acknowledged(
    tmp_path: Path, how: str
) -> None:
    path, moved = tmp_path / "var" / "receiver.db", tmp_path / "moved.db"
    async with a_sink() as sink, a_receiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver:
        assert (await receiver.command("db", "backup", str(tmp_path / "other.db"))).returncode == 0
        async with calling(receiver) as traffic:
            await traffic.goes_on(50)
            path.rename(moved)
            if how == "replaced":
                (tmp_path / "other.db").rename(path)
            code = await receiver.exit_code()
            receiver.spawn()
            again = await receiver.exit_code()

            assert (code, again) == (1, 1)
            (said,) = receiver.said("store.damaged")
            assert f"was {how}" in said["reason"]
            assert "Put the file that was there back" in said["remedy"]
            moved.rename(path)
            receiver.environ[LIFE] = "1"
            await receiver.start()
        await until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'") == [(0,)])

        audit = Audit.of(traffic, sink)
        assert (audit.lost, audit.undelivered, audit.unknown) == (0, 0, 0)
        assert await receiver.stop() == 0


def damage(path: Path, *, head: bool) -> None:
    """Write rubbish over the first page of a store that is worked on, or over all others, in its file and its log."""
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
async def test_on_damage_nothing_more_is_acknowledged_and_no_start_goes_on_with_it(
    tmp_path: Path, head: bool, reason: str, tell: Tell
) -> None:
    path = tmp_path / "var" / "receiver.db"
    async with a_sink() as sink, a_receiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver:
        async with calling(receiver) as traffic:
            await traffic.goes_on(50)
            ending = asyncio.create_task(ends_at(receiver, tmp_path / "strace", "-e", f"trace={ANSWERS}"))
            await traffic.goes_on(20)
            while not ending.done():  # what is much in use is soon written anew, and the rubbish under it never met
                damage(path, head=head)
                await asyncio.sleep(0.02)
            order = await ending
        damage(path, head=head)
        receiver.spawn()
        again = await receiver.exit_code()

        tell(callbacks_acknowledged=len(traffic.promised), acknowledged_after_it_was_known=order.since_it_was_known)
        assert order.since_it_was_known == 0
        assert [reason in said["reason"] for said in receiver.said("store.damaged")[:1]] == [True]
        assert again == 1
        assert "restore a backup" in receiver.log().splitlines()[-1].lower()
        checked = await receiver.command("db", "check")
        assert (checked.returncode, checked.stdout.count("\n") > 0) == (1, True)
