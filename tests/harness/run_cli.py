"""Runs the command as a shell does."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without variables that select another configuration."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KLING_", "XDG_"))}
    return inherited | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | more


def run_cli(
    *argv: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "receiver", *map(str, argv)],
        cwd=cwd,
        env=clean_environment(**(env or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_in_terminal(argv: list[str], *, code: int = 0, **env: str) -> str:
    """Run a command on a wide terminal. Return what it shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "receiver", *argv],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment(**{"TERM": "xterm-256color", "COLUMNS": "200"} | env),
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # Linux reports in this way that the other side has closed
    os.close(ours)
    assert process.wait(30) == code
    return shown.decode()
