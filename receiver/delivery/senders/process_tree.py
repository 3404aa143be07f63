"""Find every process that a program started, even in another session or group.

Each run puts a marker into the program's environment, which its children inherit. It names the process that runs it
and the pipe for its output. This needs ``/proc``; without it nothing is found.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

_RUN_VARIABLE = "KLING_RUN"
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_START_FIELD = 19  # index of the start time in /proc/ID/stat, counted from the state


def run_marker(pipe: int) -> Mapping[str, str]:
    """Return the variable that marks the run whose output goes to the pipe with this inode."""
    return {_RUN_VARIABLE: f"{_own_identity()}-{pipe}"}


def ticks_since_boot() -> int:
    """Return the time in the unit of a process's start time. It costs less than reading that from ``/proc``."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_SECOND) if sys.platform == "linux" else 0


def processes_are_known() -> bool:
    """Return whether this system says which processes there are."""
    return Path("/proc/self/stat").exists()


def orphans() -> "frozenset[Process]":
    """Return the processes of runs whose runner is dead, if one of them still holds the run's output open.

    If none does, they may be daemons that were started on purpose, so they keep running.
    """
    living = _live_processes()
    runs: dict[str, set[int]] = {}
    for stat in living:
        marker = _marker_of(stat.id)
        if marker is not None and _is_dead(marker.rpartition("-")[0]):
            runs.setdefault(marker, set()).add(stat.id)
    found: set[int] = set()
    for marker, ids in runs.items():
        pipe = f"pipe:[{marker.rpartition('-')[2]}]"
        if any(_has_open(each, pipe) for each in ids):
            found |= ids
    return _with_children(found, living)


@cache
def _own_identity() -> str:
    """Return a unique identity of this process: PID namespace, PID and start time."""
    own = _stat(os.getpid())
    return f"{_namespace()}-{os.getpid()}-{own.started if own else 0}"


def _is_dead(runner: str) -> bool:
    """Whether a runner is gone. In another PID namespace this cannot be known, so it counts as alive."""
    namespace, _, rest = runner.partition("-")
    number, _, started = rest.partition("-")
    if namespace != str(_namespace()) or not number.isdecimal():
        return False
    return not Process(int(number), started).is_alive()


def _namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


class Process(msgspec.Struct, frozen=True):
    """A process on this machine. The start time distinguishes it from a later one with the same PID."""

    id: int
    started: str

    def is_alive(self) -> bool:
        """Whether it still runs and is not a zombie."""
        stat = _stat(self.id)
        return stat is not None and stat.started == self.started


class _Stat(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of ``/proc/ID/stat`` of a live process."""

    id: int
    parent: int
    group: int
    session: int
    started: str


class ProcessTree(msgspec.Struct, frozen=True):
    """Identifies the descendants of one run, including those that left its group and session.

    ``since`` is :func:`ticks_since_boot` from before its start.
    """

    group: int
    pipe: int
    since: int

    def descendants(self) -> frozenset[Process]:
        """Return all processes that the program started: by group, session, parent, environment or output."""
        living = _live_processes()
        return _with_children({stat.id for stat in living if self._belongs(stat)}, living)

    def group_is_alive(self) -> bool:
        """Whether the program's group has a live process. True if this cannot be known."""
        living = _live_processes()
        return not living or any(stat.group == self.group for stat in living)

    def output_holders(self) -> frozenset[Process]:
        """Return the processes that still have the program's output open."""
        return _processes(stat for stat in _live_processes() if _has_open(stat.id, self._output))

    @property
    def _output(self) -> str:
        return f"pipe:[{self.pipe}]"

    def _belongs(self, stat: _Stat) -> bool:
        if int(stat.started) < self.since:
            return False  # cheap check first: no need to list the open files of older processes
        return (
            self.group in (stat.id, stat.group, stat.session)
            or _marker_of(stat.id) == run_marker(self.pipe)[_RUN_VARIABLE]
            or _has_open(stat.id, self._output)
        )


def _with_children(found: set[int], processes: Sequence[_Stat]) -> frozenset[Process]:
    while more := {stat.id for stat in processes if stat.parent in found} - found:
        found |= more
    return _processes(stat for stat in processes if stat.id in found)


def _processes(stats: Iterable[_Stat]) -> frozenset[Process]:
    return frozenset(Process(stat.id, stat.started) for stat in stats)


def _marker_of(process_id: int) -> str | None:
    try:
        environ = Path(f"/proc/{process_id}/environ").read_bytes()
    except OSError:  # exited, or owned by another user
        return None
    prefix = f"{_RUN_VARIABLE}=".encode()
    return next(
        (entry[len(prefix) :].decode("ascii", "replace") for entry in environ.split(b"\0") if entry.startswith(prefix)),
        None,
    )


def _has_open(process_id: int, pipe: str) -> bool:
    with contextlib.suppress(OSError):
        return any(_link_target(descriptor) == pipe for descriptor in Path(f"/proc/{process_id}/fd").iterdir())
    return False


def _link_target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""


def _live_processes() -> Sequence[_Stat]:
    """List the live processes other than this one."""
    try:
        names = [entry.name for entry in Path("/proc").iterdir()]
    except OSError:
        return ()
    stats = (_stat(int(name)) for name in names if name.isdecimal() and int(name) != os.getpid())
    return tuple(stat for stat in stats if stat is not None)


def _stat(process_id: int) -> _Stat | None:
    fields = _fields(process_id)
    if not fields or fields[0] in "ZX":
        return None
    _, parent, group, session, *_ = fields
    return _Stat(
        id=process_id, parent=int(parent), group=int(group), session=int(session), started=fields[_START_FIELD]
    )


def _fields(process_id: int) -> Sequence[str]:
    """Return the fields of ``/proc/ID/stat`` from the state on; empty if there is no such process."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return text.rpartition(") ")[2].split()
