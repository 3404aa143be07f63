"""What every chaos test needs: a place to tell what it counted, and a folder that is in memory."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Tell = Callable[..., None]
"""Takes counts and seeds by name: ``tell(seed=7, cuts=300)``. They are printed at the end of the run."""


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Make known what the test counted, at once (a failure shows it) and in the summary at the end."""

    def say(**counts: object) -> None:
        for name, count in counts.items():
            record_property(name, count)
            print(f"{name} = {count}")  # noqa: T201  # pytest shows it with a failure

    return say


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for what is about order, and not about the disk."""
    shared = Path("/dev/shm")  # noqa: S108  # each folder made in it is ours alone
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
