"""Fixtures of the archive's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.archive_system import ArchiveSystem, an_archive_system


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[ArchiveSystem]:
    async with an_archive_system(tmp_path) as system:
        yield system
