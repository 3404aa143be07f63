"""Runs a process under strace to record its system calls or to inject faults."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

STRACE = shutil.which("strace") or ""
TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}

_LINE = re.compile(r"(?P<pid>\d+) +(?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*?)(?:\) += (?P<result>-?\d+|\?).*| <unfinished \.\.\.>)$")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<arguments>.*)\) += (?P<result>-?\d+|\?).*$")


@functools.cache
def unavailable_reason() -> str:
    """Return why strace cannot be used here, or an empty text."""
    if not STRACE:
        return "there is no strace here (Debian, Ubuntu: apt install strace)"
    tried = subprocess.run(
        [STRACE, "-f", "--seccomp-bpf", "-o", os.devnull, sys.executable, "-c", ""],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:200]}"


requires_strace = pytest.mark.skipif(bool(unavailable_reason()), reason=f"NOT TESTED: {unavailable_reason()}")


def trace_command(script: Path, *arguments: str, options: Sequence[str], log: Path) -> list[str]:
    """Return the command that runs a Python *script* and records to *log*, as set by *options*."""
    return [STRACE, "-f", "--seccomp-bpf", "-qq", "-o", str(log), *options, sys.executable, str(script), *arguments]


def fault_command(script: Path, *arguments: str, options: Sequence[str]) -> list[str]:
    """Return the command that runs a Python *script* with injected faults; seccomp-bpf is off, as it cannot count."""
    return [STRACE, "-f", "-qq", "-o", os.devnull, *options, sys.executable, str(script), *arguments]


def attach(pid: int, *, options: Sequence[str], log: Path) -> "subprocess.Popen[str]":
    """Trace all threads of a running process. Return strace once it is attached; it ends with the process."""
    command = [STRACE, "-f", "-o", str(log), *options, "-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    said = strace.stderr.readline()
    assert "attached" in said, said
    return strace


@dataclass(frozen=True, slots=True, kw_only=True)
class Syscall:
    """The start of a system call, its end, or both. ``result`` is None if it has not returned."""

    pid: str
    name: str
    arguments: str
    begins: bool
    ends: bool
    result: int | None = None


def read_syscalls(log: Path) -> Iterator[Syscall]:
    """Read strace's output, in the order of events."""
    begun: dict[str, str] = {}
    with log.open(encoding="ascii") as lines:
        for line in lines:
            split = _LINE.match(line)
            assert split is not None, line[:200]
            pid, rest = split["pid"], split["rest"]
            if found := _CALL.match(rest):
                result = found["result"]
                if result is None:
                    begun[pid] = found["arguments"]
                yield Syscall(
                    pid=pid,
                    name=found["name"],
                    arguments=found["arguments"],
                    begins=True,
                    ends=result is not None,
                    result=None if result in (None, "?") else int(result),
                )
            elif found := _RESUMED.match(rest):
                result = found["result"]
                arguments = begun.pop(pid, "") + found["arguments"]
                yield Syscall(
                    pid=pid,
                    name=found["name"],
                    arguments=arguments,
                    begins=False,
                    ends=True,
                    result=None if result == "?" else int(result),
                )


def parse_string(argument: str) -> bytes:
    """Parse a string as `strace -xx` writes it: ``"\x2f\x74..."``."""
    assert argument.startswith('"'), argument[:80]
    assert argument.endswith('"'), "strace cut it short"
    return bytes.fromhex(argument[1:-1].replace("\\x", ""))
