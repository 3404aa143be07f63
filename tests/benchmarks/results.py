"""The file with the figures of a run."""

import json
import os
import platform
import sqlite3
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement, Scale
from harness.source import tested_commit


class ResultsFile:
    """Keeps the figures of a run as JSON. The file is written after each figure, so that an interrupted run leaves it.

    A file that cannot be written raises OSError at the beginning.
    """

    def __init__(self, path: Path, size: Scale) -> None:
        self.path = path
        self._content: dict[str, Any] = {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": tested_commit(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "sizes": asdict(size),
            "is_finished": False,
            "figures": [],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, group: str, found: Measurement) -> None:
        """Add a figure of a group."""
        self._content["figures"].append({"group": group, **asdict(found), "value": found.value, "met": found.met})
        self._write()

    def finish(self) -> None:
        """Note that all groups were measured."""
        self._content["is_finished"] = True
        self._write()

    def _write(self) -> None:
        self.path.write_text(json.dumps(self._content, indent=2) + "\n")
