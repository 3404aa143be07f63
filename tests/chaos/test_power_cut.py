"""A power cut at any moment of real work loses nothing acknowledged, and the store stays valid.

strace records what SQLite does to its files. From the record a disk is built for each cut: unsynced data is missing,
torn or reordered. The real store must open it and contain every acknowledged write.
"""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from chaos.disk_model import TRACED_CALLS, UNSUPPORTED_CALLS, Disk, Output, PowerCut, Step, steps
from chaos.durability_check import Findings, compare, complete_lines
from chaos.parameters import env_int, fresh_seed
from chaos.strace import ENVIRONMENT, TESTS, read_syscalls, requires_strace, trace_command
from harness.soak_report import RecordCounts

CUTS = env_int("CUTS", 300)
ROUNDS, PER_ROUND = 4, 50

pytestmark = [requires_strace, pytest.mark.timeout(0)]


def record_steps(root: Path, log: Path, work: str) -> list[Step]:
    """Run a process on a new store under *root*. Return its file operations and its output."""
    options = ["-xx", "-s", "100000000", "-e", f"trace={TRACED_CALLS},{UNSUPPORTED_CALLS}"]
    arguments = (work, str(root / "var" / "receiver.db"), str(ROUNDS), str(PER_ROUND))
    recorded = subprocess.run(
        trace_command(TESTS / "chaos" / "store_process.py", *arguments, options=options, log=log),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert recorded.returncode == 0, recorded.stderr
    done = steps(read_syscalls(log), root)
    log.unlink()
    return done


async def run_cuts(
    done: list[Step], root: Path, memory_folder: Path, *, count: int, seed: int
) -> AsyncIterator[tuple[str, Findings]]:
    """Cut the power this many times, each time in another run. Return each cut with its findings."""
    planned = ((Random(f"{seed}/{n}"), n) for n in range(count))
    places = sorted(
        ((PowerCut.at_random(rng, len(done)), n, rng) for rng, n in planned), key=lambda place: place[0].after
    )
    disk = Disk()
    for place, n, rng in places:
        disk.run(done, place.after)
        disk.write_surviving(memory_folder / str(n), root, place, rng)
        yield (
            f"SEED={seed}, {place}",
            await compare(memory_folder / str(n) / "var" / "receiver.db", complete_lines(bytes(disk.output))),
        )
        await asyncio.to_thread(shutil.rmtree, memory_folder / str(n))


@pytest.mark.soak("power cut, `synchronous=FULL`", minutes=30)
async def test_a_power_cut_loses_nothing_acknowledged(
    tmp_path: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    done = record_steps(tmp_path / "disk", tmp_path / "log", "work")
    record_counts(
        seed=seed, cuts=CUTS, steps_recorded=len(done), acknowledged=sum(isinstance(each, Output) for each in done)
    )

    async for where, findings in run_cuts(done, tmp_path / "disk", memory_folder, count=CUTS, seed=seed):
        assert not findings, f"{where}: {findings}"

    record_counts(acknowledged_and_lost=0, stores_damaged=0)


@pytest.mark.soak("control: the same cuts, `synchronous=NORMAL`, must lose something")
async def test_power_cuts_reveal_a_store_that_does_not_sync(
    tmp_path: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    seed, count = fresh_seed(), min(40, CUTS)
    done = record_steps(tmp_path / "disk", tmp_path / "log", "work-weakly")

    losing = 0
    async for where, findings in run_cuts(done, tmp_path / "disk", memory_folder, count=count, seed=seed):
        assert findings.faults == [], f"{where}: {findings}"
        losing += bool(findings.lost)

    record_counts(seed=seed, cuts=count, cuts_that_lost=losing)
    assert losing > count // 4, "the cuts are too gentle to find anything"
