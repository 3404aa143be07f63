"""Run a program and all its children, with limits on time, output and leftover processes.

Standard input is a complete file, not a pipe: a program may read it at any time, open ``/dev/stdin``, or ignore it.
Children do not outlive the program, unless it succeeded and they closed its output. No process of one attempt may
still run when the next attempt begins.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec

from receiver.delivery.senders.child_process import ChildProcess, start
from receiver.delivery.senders.exit_watcher import exit_watcher, open_pidfd
from receiver.delivery.senders.process_tree import (
    Process,
    ProcessTree,
    orphans,
    processes_are_known,
    run_marker,
    ticks_since_boot,
)

KILL_AFTER = timedelta(seconds=5)
LINGER = timedelta(seconds=1)
MAX_SHUTDOWN = KILL_AFTER + 3 * LINGER
"""The longest that ending a program takes after its time limit."""

_READ_AFTER = 0.02
"""Seconds until the output of a running program is read. Most end sooner, and then it is read once, at their end."""

_POLL_INTERVAL = 0.03
_KILL_ROUNDS = 10  # a program may fork while it is being killed
_FINAL_WAIT = 0.5
_CHUNK_SIZE = 65536  # what a pipe holds


class ProcessResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended: its exit code, or minus the signal's number, and the last part of its output."""

    code: int
    timed_out: bool
    output: bytes


async def run(
    command: Sequence[str],
    *,
    content: bytes,
    env: Mapping[str, str],
    cwd: Path | None,
    time_limit: timedelta,
    output_limit: int,
) -> ProcessResult:
    """Run *command* with *content* as standard input and keep the last *output_limit* bytes of its output.

    Raises OSError or ValueError if it cannot be started. When cancelled, it ends the program before it returns.
    """
    event = _memory_file(content)
    try:
        read_end, write_end = os.pipe()
        try:
            inode, since = os.fstat(write_end).st_ino, ticks_since_boot()
            process = start(command, event=event, output=write_end, cwd=cwd, env={**env, **run_marker(inode)})
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
    finally:
        os.close(event)
    tail = _Tail(read_end, limit=output_limit)
    program = _Program(process, tail, tree=ProcessTree(process.pid, inode, since))
    try:
        return await program.finish(time_limit)
    finally:
        program.close()


async def kill_orphans() -> int:
    """End the processes that a killed receiver (``kill -9``) left running. Return how many.

    Their deliveries are attempted again, and two attempts must not overlap.
    """
    found = orphans()
    if not found:
        return 0
    _signal(found, signal.SIGTERM)
    _signal(found, signal.SIGCONT)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_AFTER.total_seconds()):
            while any(process.is_alive() for process in found):  # noqa: ASYNC110  # another process's exit raises no event here
                await asyncio.sleep(_POLL_INTERVAL)
    _signal(found | orphans(), signal.SIGKILL)
    return len(found)


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.id, number)


class _Program:
    """A running program, in its own session and process group."""

    def __init__(self, process: ChildProcess, tail: "_Tail", *, tree: ProcessTree) -> None:
        self._process = process
        self._tail = tail
        self._tree = tree
        self._has_ended = False

    async def finish(self, time_limit: timedelta) -> ProcessResult:
        """Wait until it exits, end it after *time_limit*, and clean up its leftover processes."""
        try:
            timed_out = not await self._wait_for_exit(time_limit)
            if timed_out:
                await self._terminate(self._tree.descendants, group=True, grace=KILL_AFTER)
            await self._clean_up()
        except asyncio.CancelledError:
            await self._terminate(self._tree.descendants, group=True, grace=KILL_AFTER)
            self._has_ended = True
            raise
        self._has_ended = True
        code = self._process.poll()
        return ProcessResult(
            code=-signal.SIGKILL if code is None else code, timed_out=timed_out, output=self._tail.excerpt()
        )

    def close(self) -> None:
        """Kill everything that is left, even if ending the program was interrupted."""
        if not self._has_ended:
            self._signal(self._tree.descendants(), signal.SIGKILL, group=True)
            self._process.wait(_FINAL_WAIT)
        self._process.reap()  # not before: the signals above must not reach a process that got its id
        self._tail.close()

    async def _wait_for_exit(self, time_limit: timedelta) -> bool:
        """Wait until the program itself has exited, even if its pipe is still open elsewhere. Return False if late."""
        seconds = time_limit.total_seconds()
        try:
            pidfd = open_pidfd(self._process.pid)
        except OSError:  # not available or not permitted on this system
            self._tail.start()
            await asyncio.to_thread(self._process.wait, seconds)
            return self._process.code is not None
        watcher, brief = exit_watcher(), min(_READ_AFTER, seconds)
        try:
            if not await watcher.wait(pidfd, brief):
                self._tail.start()
                await watcher.wait(pidfd, seconds - brief)
        finally:
            os.close(pidfd)
        return self._process.poll() is not None

    async def _clean_up(self) -> None:
        """End the processes that hold its output open, and after a failure all of its descendants."""
        output_ended = await self._wait_for_output_end()
        if self._process.code == 0 and not output_ended:
            await self._terminate(self._tree.output_holders, group=False, grace=LINGER)
        elif self._process.code != 0:
            await self._terminate(self._tree.descendants, group=True, grace=LINGER)
        if not output_ended:
            await self._wait_for_output_end()

    async def _wait_for_output_end(self) -> bool:
        if self._tail.has_ended_now():
            return True
        self._tail.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER.total_seconds()):
                await self._tail.ended.wait()
        return self._tail.ended.is_set()

    async def _terminate(self, find: Callable[[], frozenset[Process]], *, group: bool, grace: timedelta) -> None:
        """Send SIGTERM to the processes from *find*, and to the *group*. Kill those still alive after *grace*."""
        self._tail.start()  # a program may write much before it ends
        found = find()
        self._signal(found, signal.SIGTERM, group=group)
        self._signal(found, signal.SIGCONT, group=group)  # a stopped process cannot handle SIGTERM
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                while (group and self._group_is_alive()) or any(process.is_alive() for process in found):  # noqa: ASYNC110  # another process's exit raises no event here
                    await asyncio.sleep(_POLL_INTERVAL)
        for _ in range(_KILL_ROUNDS):
            if not (found := found | find()) and not (group and self._group_is_alive()):
                break
            self._signal(found, signal.SIGKILL, group=group)
            await asyncio.sleep(_POLL_INTERVAL)
            found = frozenset(process for process in found if process.is_alive())
        self._process.poll()

    def _signal(self, processes: frozenset[Process], number: signal.Signals, *, group: bool) -> None:
        if group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
        _signal(processes, number)

    def _group_is_alive(self) -> bool:
        if self._process.poll() is not None and not processes_are_known():
            self._process.reap()  # so that it does not count
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return self._tree.group_is_alive()  # the call above also counts zombies


class _Tail:
    """Reads a program's output of any length from a pipe and keeps the last *limit* bytes.

    It alone owns and closes the pipe's descriptor. With ``connect_read_pipe``, both uvloop and the file object close
    it. In between, another thread may open a file under the same number, and lose it to the second close.
    """

    def __init__(self, pipe: int, *, limit: int) -> None:
        self.ended = asyncio.Event()
        self._pipe = pipe
        self._limit = limit
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._is_reading = False
        os.set_blocking(pipe, False)

    def start(self) -> None:
        """Read from now on whenever there is output."""
        if not self._is_reading and not self.ended.is_set():
            self._is_reading = True
            self._loop.add_reader(self._pipe, self._read)

    def excerpt(self) -> bytes:
        """Return the last bytes."""
        return bytes(self._buffer[-self._limit :]) if self._limit else b""

    def has_ended_now(self) -> bool:
        """Read what the pipe holds, without waiting. Return whether the output has ended."""
        for _ in range(2):  # the output, then its end
            if not self.ended.is_set():
                self._read()
        return self.ended.is_set()

    def close(self) -> None:
        """Stop reading and close the pipe."""
        self._stop()
        os.close(self._pipe)

    def _stop(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._pipe)

    def _read(self) -> None:
        """Append what the pipe holds. Drop old bytes in large steps, because each drop copies the buffer."""
        try:
            data = os.read(self._pipe, _CHUNK_SIZE)
        except BlockingIOError:  # nothing at the moment
            return
        if not data:
            self.ended.set()
            self._stop()
        self._buffer += data
        if len(self._buffer) > 2 * self._limit + len(data):
            del self._buffer[: -self._limit or None]


def _memory_file(content: bytes) -> int:
    """Make an unnamed file with *content*, positioned at its start. Return its descriptor."""
    file = _unnamed_file()
    try:
        written = 0
        while written < len(content):
            written += os.pwrite(file, memoryview(content)[written:], written)
    except BaseException:
        os.close(file)
        raise
    return file


def _unnamed_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("event", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())
