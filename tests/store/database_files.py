"""What tests do to a store's files: create, move, remove and corrupt them, and read them in another process."""

import stat
import subprocess
import sys
from pathlib import Path

OPEN_AND_DIE = (
    "import asyncio, os, sys, pathlib\n"
    "from receiver.store.sqlite.store import SqliteStore\n"
    "asyncio.run(SqliteStore.open(pathlib.Path(sys.argv[1])))\n"
    "os.kill(os.getpid(), 9)\n"
)


def make(path: Path, content: bytes, *, folder: int = 0o700, file: int = 0o600) -> None:
    path.parent.mkdir(mode=folder)
    path.touch(mode=file)
    path.write_bytes(content)


def rename(path: Path, to: Path) -> None:
    path.rename(to)


def remove(path: Path, *, keep_empty: bool = False) -> None:
    """Remove a file, or only its content."""
    path.unlink()
    if keep_empty:
        path.touch()


def contents(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def corrupt(path: Path, *, last: int | None = None) -> None:
    """Overwrite every page except the first, or only the last ones, like a failing disk."""
    size = path.stat().st_size
    start = 4096 if last is None else size - last * 4096
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (size - start))


def run_code(code: str, path: Path) -> int:
    """Run code in its own process; return its exit code."""
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=100).returncode
