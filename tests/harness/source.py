"""Which source is tested."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tested_commit() -> str:
    """Return the commit of this checkout, marked if files differ from it, or ``unknown``."""
    ended = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607  # git from PATH
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stdout.strip() or "unknown"
