"""How many bytes an event takes on the disk."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.measurement import Measurement, Scale, single_value
from benchmarks.processes import a_receiver, run_load, server_process
from benchmarks.workload import STATUSES, callbacks, new_deliveries, temp_folder, wait_until_counted


def storage(size: Scale) -> Iterator[Measurement]:
    """Bytes of the store's pages in use for each event, with its task, push, delivery and attempt."""
    with temp_folder() as path, server_process("sink", folder=path) as sink:
        with a_receiver(path, sink.port):
            pass
        empty, _ = _used(path)
        with a_receiver(path, sink.port) as running:
            posts = callbacks(running, size.deliveries, statuses=STATUSES[-1:])
            delivered = new_deliveries(path)
            run_load(running.public, posts, path)
            wait_until_counted(delivered, len(posts))
        used, events = _used(path)
    yield single_value(
        "bytes on disk per event", (used - empty) / events, "B", target=1600, detail=f"of {events} events"
    )


def _used(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path / "receiver.db")) as connection:
        pages, free, page = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * page, int(connection.execute("SELECT COUNT(*) FROM events").fetchone()[0])
