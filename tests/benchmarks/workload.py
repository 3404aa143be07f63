"""What the measurements share: folders, callbacks, and counting what became of them."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from benchmarks.processes import Post, Receiver

from receiver.domain.clock import first_id

CALLBACK = (
    '{{"task_id":"{id}","task_status":"{status}","task_status_msg":"","created_at":1785901861504,'
    '"updated_at":1785901861504,"task_info":{{}},"task_result":{{"images":[{{"index":0,'
    '"url":"https://cdn.example.com/bs2/upload-ylab-stunt/output_{id}.png"}}]}}}}'
)
STATUSES = ("submitted", "processing", "succeed")
WAIT_TIMEOUT = 300.0


@contextmanager
def temp_folder() -> Iterator[Path]:
    """Create a folder for one measurement, on the disk that all parties share."""
    with TemporaryDirectory(prefix="kling-receiver-bench-") as name:
        yield Path(name)


def callbacks(running: Receiver, count: int, *, statuses: Sequence[str] = STATUSES) -> list[Post]:
    """Return about *count* callbacks of new tasks of the receiver."""
    return posts_to(uvloop.run(running.create_callback_urls(count // len(statuses))), statuses=statuses)


def posts_to(paths: Sequence[str], *, statuses: Sequence[str] = STATUSES) -> list[Post]:
    """Return callbacks for these paths: the first status of all tasks, then the next, and so on."""
    return [
        (path, CALLBACK.format(id=f"8672837417{number:08}", status=status))
        for status in statuses
        for number, path in enumerate(paths)
    ]


def wait_until_counted(count: Callable[[], int], wanted: int) -> None:
    """Wait until *count* reaches *wanted*; fail after a time limit."""
    end = time.perf_counter() + WAIT_TIMEOUT
    while (counted := count()) < wanted:
        if time.perf_counter() > end:
            raise RuntimeError(f"only {counted} of {wanted} were delivered")
        time.sleep(0.02)


def new_deliveries(path: Path, route: str | None = None) -> "RowCounter":
    """Count the receiver's deliveries, to *route* or to all, that succeed at their first attempt and are made from now
    on. The count reads only these, so that it takes little from those that are measured.
    """
    query = (
        "SELECT COUNT(*) FROM deliveries WHERE id >= ? AND route = IFNULL(?, route) "
        "AND status = 'delivered' AND attempts = 1"
    )
    return RowCounter(path / "receiver.db", query, first_id("dlv", datetime.now(UTC)), route)


def forwarder_finished(path: Path) -> Callable[[], int]:
    """Count what the forwarder has finished, including losses by client timeouts."""
    return RowCounter(path / "forwarder.db", "SELECT COUNT(*) FROM events WHERE status != 'pending'")


def forwarder_lost(path: Path) -> Callable[[], int]:
    """Count the forwarder's lost events."""
    return RowCounter(path / "forwarder.db", "SELECT COUNT(*) FROM events WHERE status = 'failed'")


class RowCounter:
    """Counts rows in another process's database, read-only, over one connection."""

    def __init__(self, database: Path, query: str, *arguments: str | None) -> None:
        self._database = database
        self._query = query
        self._arguments = arguments
        self._connection: sqlite3.Connection | None = None

    def __call__(self) -> int:
        """Return the number of rows."""
        if self._connection is None:
            self._connection = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=10)
        return int(self._connection.execute(self._query, self._arguments).fetchone()[0])

    def close(self) -> None:
        """Close the connection: some changes of a database need to be alone with it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self.close()
