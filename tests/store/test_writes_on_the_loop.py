"""Which part of a transaction runs on the event loop, and that the connection is left as it was after any end."""

import asyncio
import contextlib
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from store.conftest import a_sqlite_store

from receiver.domain.errors import Conflict, StoreUnavailable
from receiver.store.sqlite import writer as writer_module
from receiver.store.sqlite.writer import DecidedWriteOp, WriteOp, Writer, bodiless

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
for line in sys.stdin:
    if line == "end\\n":
        connection.execute("ROLLBACK")
    print(line, end="", flush=True)
"""
ON_THE_LOOP = ["loop: BEGIN", "loop: INSERT", "thread: COMMIT"]
IN_THE_THREAD = ["thread: BEGIN", "thread: INSERT", "thread: COMMIT"]
LARGE = "x" * (256 * 1024 + 1)


class Stopwatch:
    """The writer's clock, which stands still unless a statement takes time."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Trace:
    """The statements of the writer's connection, and where each ran."""

    def __init__(self) -> None:
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._ran: list[str] = []
        self.committing = asyncio.Event()
        self.may_commit = threading.Event()
        self.may_commit.set()

    def __call__(self, statement: str) -> None:
        where = "loop" if threading.get_ident() == self._loop_thread else "thread"
        word = statement.split(maxsplit=1)[0]
        if word != "PRAGMA":
            self._ran.append(f"{where}: {word}")
        if word == "COMMIT":
            self._loop.call_soon_threadsafe(self.committing.set)
            self.may_commit.wait(30)

    def take(self) -> Sequence[str]:
        """Return what ran since the last call."""
        ran, self._ran = self._ran, []
        return ran


class Traced:
    """A writer of a real file, its trace and its clock."""

    def __init__(self, writer: Writer, trace: Trace, watch: Stopwatch) -> None:
        self.writer = writer
        self.trace = trace
        self.watch = watch

    def slow(self, seconds: float, *, fails: bool = False) -> WriteOp[str, None]:
        """A write that takes *seconds*."""

        def write(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
            self.watch.now += seconds
            return _write_nowhere(connection, group) if fails else _insert(connection, group)

        return WriteOp(write=write, size=bodiless)

    async def state(self) -> tuple[bool, int, Sequence[str]]:
        """Whether a transaction is open, the level of syncs, and the stored notes."""
        return await self.writer._thread.run(_state)


def _create_table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body, parent REFERENCES notes)")


def _state(connection: sqlite3.Connection) -> tuple[bool, int, Sequence[str]]:
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    notes = [row["body"] for row in connection.execute("SELECT body FROM notes ORDER BY id")]
    return connection.in_transaction, level, notes


def _insert(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
    connection.executemany("INSERT INTO notes (body) VALUES (?)", [(body,) for body in group])
    return [None] * len(group)


def _write_nowhere(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
    _insert(connection, group)
    connection.execute("INSERT INTO nowhere VALUES (1)")
    return [None] * len(group)


def _insert_orphan(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
    """Write what only the commit refuses."""
    connection.execute("PRAGMA defer_foreign_keys = ON")
    connection.execute("INSERT INTO notes (body, parent) VALUES ('orphan', 1000)")
    return [None] * len(group)


def _size(group: Sequence[str]) -> int:
    return sum(map(len, group))


def _load(connection: sqlite3.Connection, _group: Sequence[str]) -> int:
    return int(connection.execute("SELECT COUNT(*) FROM notes").fetchone()[0])


def _load_nothing(connection: sqlite3.Connection, _group: Sequence[str]) -> int:
    return int(connection.execute("SELECT COUNT(*) FROM nowhere").fetchone()[0])


def _decide(group: Sequence[str], _count: int) -> tuple[Sequence[None], Sequence[str]]:
    return [None] * len(group), group


def _decide_nothing(_group: Sequence[str], _count: int) -> tuple[Sequence[None], Sequence[str]]:
    raise LookupError("no decision")


def _insert_plan(connection: sqlite3.Connection, plan: Sequence[str]) -> None:
    _insert(connection, plan)


NOTE: WriteOp[str, None] = WriteOp(write=_insert, size=_size)
LOSABLE: WriteOp[str, None] = WriteOp(write=_insert, size=_size, is_durable=False)
UNSIZED: WriteOp[str, None] = WriteOp(write=_insert)
DECIDED: DecidedWriteOp[str, int, Sequence[str], None] = DecidedWriteOp(
    load=_load, decide=_decide, write=_insert_plan, size=_size
)


@pytest.fixture
async def traced(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    """A writer that has written nothing since its start."""
    watch, trace = Stopwatch(), Trace()
    monkeypatch.setattr(writer_module, "time", watch)
    async with a_sqlite_store(path) as store:
        thread = store.deliveries._writer._thread
        await thread.run(_create_table)
        await thread.run(lambda connection: connection.set_trace_callback(trace))
        yield Traced(store.deliveries._writer, trace, watch)
        trace.may_commit.set()
        if thread.is_idle:
            await thread.run(lambda connection: connection.set_trace_callback(None))


@pytest.fixture
async def warm(traced: Traced) -> Traced:
    """A writer whose next short transaction may run on the event loop."""
    await traced.writer.execute(NOTE, "warm")
    traced.trace.take()
    return traced


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_first_transaction_after_a_start_runs_in_the_writers_thread(traced: Traced) -> None:
    await traced.writer.execute(NOTE, "a")
    assert traced.trace.take() == IN_THE_THREAD

    await traced.writer.execute(NOTE, "b")
    assert traced.trace.take() == ON_THE_LOOP


async def test_a_short_transaction_runs_on_the_event_loop_and_commits_in_the_writers_thread(warm: Traced) -> None:
    await warm.writer.execute(NOTE, "a")
    assert warm.trace.take() == ON_THE_LOOP

    await asyncio.gather(warm.writer.execute(NOTE, "b"), warm.writer.execute(DECIDED, "c"))
    assert warm.trace.take() == ["loop: BEGIN", "loop: SELECT", "loop: INSERT", "loop: INSERT", "thread: COMMIT"]


@pytest.mark.parametrize(("op", "body"), [(UNSIZED, ""), (NOTE, LARGE)], ids=["without a size", "large"])
async def test_a_long_transaction_runs_in_the_writers_thread(warm: Traced, op: WriteOp[str, None], body: str) -> None:
    await warm.writer.execute(op, body)

    assert warm.trace.take() == IN_THE_THREAD


async def test_one_long_write_takes_its_group_to_the_writers_thread(warm: Traced) -> None:
    await asyncio.gather(*(warm.writer.execute(op, "a") for op in (NOTE, UNSIZED, LOSABLE)))

    assert {each.split(":")[0] for each in warm.trace.take()} == {"thread"}


async def test_a_large_decision_is_written_in_the_writers_thread(warm: Traced) -> None:
    await warm.writer.execute(DECIDED, LARGE)

    assert warm.trace.take() == ["loop: BEGIN", "loop: SELECT", "thread: INSERT", "thread: COMMIT"]


@pytest.mark.parametrize("fails", [False, True])
async def test_many_transactions_after_a_slow_one_run_in_the_writers_thread(warm: Traced, fails: bool) -> None:
    with contextlib.suppress(sqlite3.OperationalError):
        await warm.writer.execute(warm.slow(1.0, fails=fails), "slow")
    assert warm.trace.take()[:2] == ON_THE_LOOP[:2]

    for _ in range(writer_module._GROUPS_AFTER_SLOW):
        await warm.writer.execute(NOTE, "a")
        assert warm.trace.take() == IN_THE_THREAD

    await warm.writer.execute(NOTE, "b")
    assert warm.trace.take() == ON_THE_LOOP


async def test_after_a_slow_load_the_rest_runs_in_the_writers_thread(warm: Traced) -> None:
    def load(connection: sqlite3.Connection, group: Sequence[str]) -> int:
        warm.watch.now += 1
        return _load(connection, group)

    await warm.writer.execute(DecidedWriteOp(load=load, decide=_decide, write=_insert_plan, size=_size), "a")

    assert warm.trace.take() == ["loop: BEGIN", "loop: SELECT", "thread: INSERT", "thread: COMMIT"]


async def test_what_is_slow_depends_on_the_number_of_items(warm: Traced) -> None:
    many = warm.slow(writer_module._MAX_SECONDS_ON_LOOP + 100 * writer_module._MAX_SECONDS_PER_ITEM)

    await warm.writer.execute_all(many, ["a"] * 100)
    warm.trace.take()
    await warm.writer.execute_all(many, ["a"] * 99)
    assert warm.trace.take()[0] == "loop: BEGIN"

    await warm.writer.execute(NOTE, "b")
    assert warm.trace.take() == IN_THE_THREAD


async def test_a_transaction_in_the_writers_thread_is_not_timed(warm: Traced) -> None:
    slow = WriteOp(write=warm.slow(1.0).write)  # without a size

    await warm.writer.execute(slow, "slow")
    assert warm.trace.take() == IN_THE_THREAD

    await warm.writer.execute(NOTE, "a")
    assert warm.trace.take() == ON_THE_LOOP


@pytest.mark.parametrize("op", [NOTE, LOSABLE], ids=["durable", "losable"])
async def test_the_event_loop_does_not_wait_for_another_process(
    warm: Traced, path: Path, op: WriteOp[str, None]
) -> None:
    loop, pipe = asyncio.get_running_loop(), asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD_THE_LOCK, path, stdin=pipe, stdout=pipe)
    assert other.stdin is not None

    async def answer(line: bytes) -> bytes:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(line)
        return await other.stdout.readline()

    try:
        assert await answer(b"begin\n") == b"begin\n"
        began = loop.time()
        write = asyncio.create_task(warm.writer.execute(op, "a"))
        await turns(10)

        assert await answer(b"still\n") == b"still\n"
        assert loop.time() - began < 5, "the event loop has waited for the lock"
        assert not write.done()

        await answer(b"end\n")
        await write
    finally:
        other.stdin.close()
        await other.wait()

    assert warm.trace.take() == ["loop: BEGIN", *IN_THE_THREAD]
    assert await warm.state() == (False, 2, ["warm", "a"])


async def test_the_connection_is_not_used_while_a_cancelled_function_still_runs_in_its_thread(warm: Traced) -> None:
    entered, release = threading.Event(), threading.Event()

    def work(_connection: sqlite3.Connection) -> None:
        entered.set()
        release.wait(30)

    exclusive = asyncio.create_task(warm.writer.run_exclusive(work))
    try:
        await asyncio.to_thread(entered.wait, 30)
        exclusive.cancel()
        await asyncio.gather(exclusive, return_exceptions=True)
        write = asyncio.create_task(warm.writer.execute(NOTE, "a"))
        await turns(20)

        assert warm.trace.take() == []
    finally:
        release.set()

    await write
    assert warm.trace.take() == IN_THE_THREAD
    await warm.writer.execute(NOTE, "b")
    assert warm.trace.take() == ON_THE_LOOP


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")


FAULTS: dict[str, tuple[Any, type[Exception]]] = {
    "begin": (NOTE, sqlite3.OperationalError),
    "load": (
        DecidedWriteOp(load=_load_nothing, decide=_decide, write=_insert_plan, size=_size, is_durable=False),
        sqlite3.OperationalError,
    ),
    "decide": (
        DecidedWriteOp(load=_load, decide=_decide_nothing, write=_insert_plan, size=_size, is_durable=False),
        LookupError,
    ),
    "write": (WriteOp(write=_write_nowhere, size=_size, is_durable=False), sqlite3.OperationalError),
    "commit": (WriteOp(write=_insert_orphan, size=_size, is_durable=False), Conflict),
}


@pytest.mark.parametrize("stage", FAULTS)
async def test_an_error_rolls_back_and_the_next_write_succeeds(warm: Traced, stage: str) -> None:
    op, error = FAULTS[stage]
    if stage == "begin":
        await warm.writer.run_exclusive(_begin)  # a transaction that was left open
        warm.trace.take()

    with pytest.raises(error):
        await warm.writer.execute(op, "a")

    assert [each for each in warm.trace.take() if each.endswith("BEGIN")] == ["loop: BEGIN"]
    assert await warm.state() == (False, 2, ["warm"])
    warm.trace.take()
    await warm.writer.execute(NOTE, "b")
    assert warm.trace.take() == ON_THE_LOOP
    assert await warm.state() == (False, 2, ["warm", "b"])


async def test_an_unsynced_transaction_on_the_event_loop_leaves_the_connection_synced(warm: Traced) -> None:
    levels: list[int] = []

    def write(connection: sqlite3.Connection, group: Sequence[str]) -> Sequence[None]:
        levels.append(connection.execute("PRAGMA synchronous").fetchone()[0])
        return _insert(connection, group)

    await warm.writer.execute(WriteOp(write=write, size=bodiless, is_durable=False), "a")

    assert warm.trace.take() == ON_THE_LOOP
    assert levels == [1]
    assert await warm.state() == (False, 2, ["warm", "a"])


async def test_no_caller_continues_before_the_commit(warm: Traced) -> None:
    warm.trace.committing.clear()
    warm.trace.may_commit.clear()
    write = asyncio.create_task(warm.writer.execute(NOTE, "a"))
    await warm.trace.committing.wait()
    await turns(20)

    assert not write.done()

    warm.trace.may_commit.set()
    await write


@pytest.mark.parametrize("op", [NOTE, LOSABLE], ids=["durable", "losable"])
async def test_a_cancelled_writer_waits_for_the_commit_before_it_uses_the_connection(
    warm: Traced, op: WriteOp[str, None]
) -> None:
    warm.trace.committing.clear()
    warm.trace.may_commit.clear()
    write = asyncio.create_task(warm.writer.execute(op, "a"))
    await warm.trace.committing.wait()
    closing = asyncio.create_task(warm.writer.aclose())
    await turns(3)
    closing.cancel()
    await turns(20)
    assert warm.trace.take() == ON_THE_LOOP

    warm.trace.may_commit.set()
    with pytest.raises(StoreUnavailable):
        await write
    await closing

    assert await warm.state() == (False, 2, ["warm", "a"])
