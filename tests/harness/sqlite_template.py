"""Opens stores that are migrated already: the steps of the schema take four fifths of the time to open an empty one.

Tests of the schema, of a first start and of crashes while a store is created open it without this module.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from receiver.store.sqlite.migrate import migrate
from receiver.store.sqlite.store import SqliteStore


async def open_store(path: Path, **options: Any) -> SqliteStore:
    """Open the store at *path*. If there is none, it is a copy of an empty one."""
    _place_empty_store(path)
    return await SqliteStore.open(path, **options)


def _place_empty_store(path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(_empty_store())


@cache
def _empty_store() -> bytes:
    """Return the file of an empty store, with the newest schema."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "receiver.db"
        migrate(path)
        return path.read_bytes()
