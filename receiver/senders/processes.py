"""Runs a program to its end, with everything it started: its time, its output and its leftovers are bounded.

Standard input is a file that is already complete, not a pipe to be fed: a program may read it when it likes,
open ``/dev/stdin``, or never look at it. What it starts does not outlive it, unless it succeeded and the rest
let go of its output; before another try nothing of the one before may go on.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

KILL_AFTER = timedelta(seconds=5)
LINGER = timedelta(seconds=1)
LONGEST_END = KILL_AFTER + 3 * LINGER
"""What ending a program may take beyond its own time."""

_MARK = "KLING_RUN"  # in the environment of one run and no other, so that what strayed from it is known
_LOOK_EVERY = 0.03
_SWEEPS = 3  # a program may fork while it is being killed
_LAST_LOOK = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: its exit code or minus a signal's number, and the end of its output."""

    code: int
    timed_out: bool
    output: bytes


async def run(
    command: Sequence[str],
    *,
    content: bytes,
    env: Mapping[str, str],
    cwd: Path | None,
    within: timedelta,
    keep: int,
) -> Ended:
    """Run *command* with *content* at its standard input and keep the last *keep* bytes of both its outputs.

    Raises OSError or ValueError when it cannot be started. Cancelled, it ends the program before it gives way.
    """
    tail = _Tail(keep)
    with _holding(content) as event:
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "wb", buffering=0) as output:
            pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: tail, os.fdopen(read_end, "rb", 0))
            inode = os.fstat(write_end).st_ino
            mark = f"{os.getpid()}-{inode}"
            try:
                process = _start(command, event, output, cwd=cwd, env={**env, _MARK: mark})
            except BaseException:
                pipe.close()
                raise
    traces = _Traces(group=process.pid, mark=f"{_MARK}={mark}".encode(), pipe=f"pipe:[{inode}]")
    program = _Program(process, pipe, tail, traces=traces)
    try:
        return await program.finish(within)
    finally:
        program.close()


def _start(
    command: Sequence[str], event: IO[bytes], output: IO[bytes], *, cwd: Path | None, env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603  # the operator's own command
        command, stdin=event, stdout=output, stderr=output, cwd=cwd, env=env, start_new_session=True
    )


class _Program:
    """A program that was started, in a session and a group of its own."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", pipe: asyncio.ReadTransport, tail: "_Tail", *, traces: "_Traces"
    ) -> None:
        self._process = process
        self._pipe = pipe
        self._tail = tail
        self._traces = traces

    async def finish(self, within: timedelta) -> Ended:
        """Let it run for so long, then end it; settle what it left behind."""
        timed_out = False
        try:
            try:
                async with asyncio.timeout(within.total_seconds()):
                    await self._exited()
            except TimeoutError:
                timed_out = True
                await self._end(self._traces.kin, group=True, grace=KILL_AFTER)
            await self._settle()
        except asyncio.CancelledError:
            await self._end(self._traces.kin, group=True, grace=KILL_AFTER)
            raise
        code = self._process.poll()
        return Ended(code=-signal.SIGKILL if code is None else code, timed_out=timed_out, output=self._tail.excerpt())

    def close(self) -> None:
        """Leave nothing of it behind, whatever cut the ending short."""
        if self._process.poll() is None:
            self._signal(self._traces.kin(), signal.SIGKILL, group=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LAST_LOOK)
        self._pipe.close()

    async def _exited(self) -> None:
        """Wait until the program itself is gone, whoever still holds its pipe."""
        try:
            watch = _watch(self._process.pid)
        except OSError:  # no such call on this system, or none allowed
            await asyncio.to_thread(self._process.wait)
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(watch, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(watch)
            os.close(watch)
        self._process.wait()

    async def _settle(self) -> None:
        """End who still holds its output, and after a failure everybody else in its group."""
        quiet = await self._output_ended()
        if self._process.returncode == 0 and not quiet:
            await self._end(self._traces.holders, group=False, grace=LINGER)
        elif self._process.returncode != 0 and (self._group_lives() or not quiet):
            await self._end(self._traces.kin, group=True, grace=LINGER)
        if not quiet:
            await self._output_ended()

    async def _output_ended(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER.total_seconds()):
                await self._tail.ended.wait()
        return self._tail.ended.is_set()

    async def _end(self, find: "Callable[[], frozenset[_Process]]", *, group: bool, grace: timedelta) -> None:
        """Ask those whom *find* finds, and the *group*, to end; kill who is still there after *grace*."""
        found = find()
        self._signal(found, signal.SIGTERM, group=group)
        self._signal(found, signal.SIGCONT, group=group)  # one that is stopped could not heed the first
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                while (group and self._group_lives()) or any(process.lives() for process in found):  # noqa: ASYNC110  # others' ends are no events of ours
                    await asyncio.sleep(_LOOK_EVERY)
        for _ in range(_SWEEPS):
            if not (found := found | find()) and not (group and self._group_lives()):
                break
            self._signal(found, signal.SIGKILL, group=group)
            await asyncio.sleep(_LOOK_EVERY)
            found = frozenset(process for process in found if process.lives())
        self._process.poll()

    def _signal(self, found: "frozenset[_Process]", number: signal.Signals, *, group: bool) -> None:
        if group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
        for process in found:
            if process.lives():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.id, number)

    def _group_lives(self) -> bool:
        self._process.poll()  # buries it, so that it does not count itself
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return self._traces.has_members()  # the call above also counts those that nobody has buried yet


class _Tail(asyncio.Protocol):
    """Keeps the last bytes of an output, however long it is."""

    def __init__(self, keep: int) -> None:
        self.ended = asyncio.Event()
        self._keep = keep
        self._kept = bytearray()

    def data_received(self, data: bytes) -> None:
        """Take what came; what lies too far back is let go in large steps."""
        self._kept += data
        if len(self._kept) > 2 * self._keep + len(data):
            del self._kept[: -self._keep or None]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's; an end is an end
        """Note that nobody writes any more."""
        self.ended.set()

    def excerpt(self) -> bytes:
        """Give the last bytes."""
        return bytes(self._kept[-self._keep :]) if self._keep else b""


@dataclass(frozen=True, slots=True)
class _Process:
    """A process of this machine, told by its start from a later one of the same number."""

    id: int
    started: str

    def lives(self) -> bool:
        """Whether it is still there, and not merely unburied."""
        stat = _stat(self.id)
        return stat is not None and stat.started == self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    """What ``/proc/ID/stat`` says of a live process."""

    id: int
    parent: int
    group: int
    session: int
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traces:
    """What a program's descendants can be known by, also those that left its group and session.

    Only where there is a ``/proc``; elsewhere the group has to do.
    """

    group: int
    mark: bytes
    pipe: str

    def kin(self) -> frozenset[_Process]:
        """Find everything that the program started: by group, session, parent, environment or output."""
        living = _living()
        found = {
            stat.id
            for stat in living
            if self.group in (stat.id, stat.group, stat.session) or self._is_marked(stat.id) or self._holds(stat.id)
        }
        while more := {stat.id for stat in living if stat.parent in found} - found:
            found |= more
        return frozenset(_Process(stat.id, stat.started) for stat in living if stat.id in found)

    def has_members(self) -> bool:
        """Whether somebody lives in the program's group, as far as can be told."""
        living = _living()
        return not living or any(stat.group == self.group for stat in living)

    def holders(self) -> frozenset[_Process]:
        """Find who still has the program's output open."""
        return frozenset(_Process(stat.id, stat.started) for stat in _living() if self._holds(stat.id))

    def _is_marked(self, process_id: int) -> bool:
        try:
            environ = Path(f"/proc/{process_id}/environ").read_bytes()
        except OSError:  # gone, or somebody else's
            return False
        return self.mark in environ.split(b"\0")

    def _holds(self, process_id: int) -> bool:
        with contextlib.suppress(OSError):
            return any(_leads_to(descriptor) == self.pipe for descriptor in Path(f"/proc/{process_id}/fd").iterdir())
        return False


def _leads_to(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""


def _living() -> Sequence[_Stat]:
    """List the live processes other than this one."""
    try:
        names = [entry.name for entry in Path("/proc").iterdir()]
    except OSError:
        return ()
    stats = (_stat(int(name)) for name in names if name.isdecimal() and int(name) != os.getpid())
    return tuple(stat for stat in stats if stat is not None)


def _stat(process_id: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, parent, group, session, *more = text.rpartition(") ")[2].split()
    if state in "ZX":
        return None
    return _Stat(id=process_id, parent=int(parent), group=int(group), session=int(session), started=more[15])


def _watch(process_id: int) -> int:
    """Open a descriptor that becomes readable when the process exits, without burying it."""
    if sys.platform != "linux":
        raise OSError("no such call here")
    return os.pidfd_open(process_id)


def _holding(content: bytes) -> IO[bytes]:
    """Make a nameless file that holds *content*, to be read from its start."""
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("event", os.MFD_CLOEXEC), "w+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # the caller's to close
    try:
        file.write(content)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
