"""CPU time of a process and its children: steadier than a rate on a machine that does other work as well."""

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED_SECONDS = 0.1
_MAX_SETTLING = 10.0


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, its live children and its children that have ended."""
    ticks, pids = 0, [pid]
    while pids:
        current = pids.pop()
        try:
            stat = Path(f"/proc/{current}/stat").read_text()
            pids += map(int, Path(f"/proc/{current}/task/{current}/children").read_text().split())
        except OSError:
            continue
        ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / _TICKS


def settled_cpu_seconds(pid: int) -> float:
    """Wait until the process has finished its work, which shows as no CPU time for a moment. Return its CPU time."""
    used, end = cpu_seconds(pid), time.monotonic() + _MAX_SETTLING
    while time.monotonic() < end:
        time.sleep(_SETTLED_SECONDS)
        before, used = used, cpu_seconds(pid)
        if used - before <= 1 / _TICKS:
            break
    return used


class CpuMeter:
    """Counts the CPU time of a process over several rounds of work."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = 0.0

    def start(self) -> None:
        """Start a round."""
        self._before = settled_cpu_seconds(self._pid)

    def microseconds_each(self, count: int) -> float:
        """End the round. Return the CPU time for each of *count* pieces of work, in microseconds."""
        return (settled_cpu_seconds(self._pid) - self._before) / count * 1e6
