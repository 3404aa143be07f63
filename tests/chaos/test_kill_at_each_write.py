"""The process is killed at its first write, its second, its third, ...: each operation is done completely or not at
all.

strace kills the process as it enters the chosen call. A short run tests some of the points, a long one (POINTS=0) all.
"""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TypeAlias

import pytest
from chaos import store_process
from chaos.durability_check import compare, complete_lines
from chaos.parameters import env_int, fresh_seed
from chaos.strace import ENVIRONMENT, TESTS, fault_command, read_syscalls, requires_strace, trace_command
from harness.soak_report import RecordCounts

from receiver.store.sqlite import maintenance
from receiver.store.sqlite.database import connect_writer
from receiver.store.sqlite.migrate import known_migrations, migrate, upgrade

POINTS = env_int("POINTS", 5)
STORE_PROCESS = TESTS / "chaos" / "store_process.py"
WRITE_CALLS = "pwrite64,fsync,fdatasync,ftruncate,rename,unlink"
STORED_BEFORE = 12

KillPoint: TypeAlias = tuple[str, int]
"""A system call's name, and the how many-th of a thread's."""

pytestmark = [requires_strace, pytest.mark.timeout(0)]


def find_kill_points(path: Path, operation: str, *more: str) -> list[KillPoint]:
    """Return the writes at which a store process can be killed during one operation."""
    log, options = path.with_name("log"), ["-s", "0", "-e", f"trace={WRITE_CALLS}"]
    subprocess.run(
        trace_command(STORE_PROCESS, operation, str(path), *more, options=options, log=log),
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    counts = Counter((call.pid, call.name) for call in read_syscalls(log) if call.begins)
    most: Counter[str] = Counter()
    for (_, name), count in counts.items():
        most[name] = max(most[name], count)
    return [(name, nth) for name, count in sorted(most.items()) for nth in range(1, count + 1)]


def kill_at(point: KillPoint, path: Path, operation: str, *more: str) -> tuple[bool, list[str]]:
    """Kill a store process at one point. Return whether it was killed, and its output before that."""
    name, nth = point
    options = ["-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={nth}"]
    command = fault_command(STORE_PROCESS, operation, str(path), *more, options=options)
    ran = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False)
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr.decode()
    return ran.returncode != 0, complete_lines(ran.stdout)


Check: TypeAlias = Callable[[Path, list[str]], Awaitable[list[str]]]
"""Looks at what a killed process left, given what was acknowledged; gives the faults."""


async def kill_at_each_write(
    folder: Path, record_counts: RecordCounts, operation: str, *more: str, base: Path | None, check: Check
) -> None:
    """Repeat one operation on copies of *base*, killed at a different write each time."""
    seed = fresh_seed()

    def prepared(name: str) -> Path:
        place = folder / name
        place.mkdir() if base is None else shutil.copytree(base, place)
        return place / "receiver.db"

    all_points = find_kill_points(prepared("counted"), operation, *more)
    chosen = Random(seed).sample(all_points, POINTS) if 0 < POINTS < len(all_points) else all_points
    killed = 0
    for n, point in enumerate(chosen):
        path = prepared(str(n))
        was_killed, said = await asyncio.to_thread(kill_at, point, path, operation, *more)
        killed += was_killed
        faults = await check(path, said)
        assert faults == [], f"SEED={seed}, killed at {point}: {faults}"
        await asyncio.to_thread(shutil.rmtree, path.parent)
    record_counts(seed=seed, points=len(all_points), tried=len(chosen), killed=killed)
    assert killed > len(chosen) // 2


@pytest.fixture
async def base(memory_folder: Path) -> Path:
    """A store with unfinished deliveries."""
    folder = memory_folder / "base"
    folder.mkdir()
    await store_process.accept_some(folder / "receiver.db", 0, STORED_BEFORE, report=lambda _: None)
    return folder


BEFORE = [f"accepted {n}" for n in range(STORED_BEFORE)]


async def lost_or_damaged(path: Path, said: list[str]) -> list[str]:
    findings = await compare(path, BEFORE + said)
    return [f"lost: {line}" for line in findings.lost] + findings.faults


@pytest.mark.soak("killed at each write while it accepts callbacks", minutes=3)
async def test_a_kill_at_any_write_of_a_callback_loses_nothing_acknowledged(
    base: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    await kill_at_each_write(
        memory_folder, record_counts, "accept", str(STORED_BEFORE), "12", base=base, check=lost_or_damaged
    )


@pytest.mark.soak("killed at each write while it delivers", minutes=3)
async def test_a_kill_at_any_write_of_a_delivery_loses_nothing_acknowledged(
    base: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    await kill_at_each_write(memory_folder, record_counts, "deliver", base=base, check=lost_or_damaged)


@pytest.mark.soak("killed at each write while it makes a new store", minutes=3)
async def test_a_kill_at_any_write_of_a_new_store_leaves_it_complete_or_absent(
    memory_folder: Path, record_counts: RecordCounts
) -> None:
    async def check(path: Path, said: list[str]) -> list[str]:
        made = tables(path)
        faults = [f"made by halves: {made}"] if made and "actions" not in made else []
        if said and not made:
            faults.append("said to be made, and gone")
        migrate(path)
        return faults + maintenance.check(path)

    await kill_at_each_write(memory_folder, record_counts, "make", base=None, check=check)


@pytest.mark.soak("killed at each write while it migrates", minutes=3)
async def test_a_kill_at_any_write_of_a_migration_leaves_it_complete_or_unapplied(
    base: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    async def check(path: Path, said: list[str]) -> list[str]:
        if not said and "next_one" not in tables(path):
            return await lost_or_damaged(path, [])
        with closing(connect_writer(path)) as connection:
            assert upgrade(connection, [*known_migrations(), store_process.NEXT_MIGRATION]) == []
            told = [row[0] for row in connection.execute("SELECT DISTINCT label FROM tasks")]
            pushes = connection.execute("SELECT COUNT(next IS NULL) FROM pushes").fetchone()[0]
        whole = "next_two" in tables(path) and told == ["migrated"] and pushes == STORED_BEFORE
        return [] if whole else ["migrated by halves"]

    await kill_at_each_write(memory_folder, record_counts, "migrate", base=base, check=check)


@pytest.mark.soak("killed at each write while it makes a backup", minutes=3)
async def test_a_kill_at_any_write_of_a_backup_leaves_it_complete_or_absent(
    base: Path, memory_folder: Path, record_counts: RecordCounts
) -> None:
    async def check(path: Path, said: list[str]) -> list[str]:
        copy = path.with_name("copy.db")
        faults = await lost_or_damaged(path, [])
        if copy.exists():
            return faults + await lost_or_damaged(copy, [])
        maintenance.backup(path, copy)
        left = sorted(file.name for file in path.parent.iterdir() if file.name.startswith("."))
        return faults + left + (["said to be there, and gone"] if said else [])

    await kill_at_each_write(memory_folder, record_counts, "backup", base=base, check=check)


def tables(path: Path) -> set[str]:
    """Return the tables of a store, read with sqlite3."""
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
