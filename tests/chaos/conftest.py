"""Fixtures of the chaos tests: a folder in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if possible, for tests of order that do not depend on the disk."""
    shared = Path("/dev/shm")  # noqa: S108  # each folder in it is private to us
    if not shared.is_dir():
        yield tmp_path
        return
    try:
        folder = tempfile.TemporaryDirectory(dir=shared, prefix="kling-receiver-")
    except OSError:
        yield tmp_path
        return
    with folder as name:
        yield Path(name)
