"""Runs the command as a shell does."""

import os
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
