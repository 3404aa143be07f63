"""`kling-receiver batches export`: lays the results of a batch down in a folder, with a manifest.

A folder may take the results of several batches, such as those of a batch and of what was retried of it. So each file
belongs to a task: the manifest says which, and until it is written a plan does. Only a task's own files are kept.
"""

import asyncio
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from receiver import __version__
from receiver.archive.fetcher import Fetcher, ResultFile
from receiver.archive.retry import MissingResult
from receiver.cli import FAILED, OK, render
from receiver.cli.options import ClientOptions, UsageError
from receiver.client import Task
from receiver.domain.model import Json
from receiver.domain.quantity_text import counted
from receiver.domain.result_names import stems
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard
from receiver.settings.paths import probe

Read = TypeVar("Read", list[Json], dict[str, str])

_MANIFEST = ("file", "label", "task", "state", "endpoint", "url", "bytes", "message")
_MANIFEST_FILE = "manifest.json"
_ARRIVING, _PLAN = ".arriving", ".export.json"


def export(tasks: Sequence[Task], folder: Path, output: ClientOptions) -> int:
    """Write the files of the tasks and both manifests into *folder*. Return 1 if a file could not be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = _read(folder / _MANIFEST_FILE, list[Json])
        planned = _plan(tasks, _Owners(folder, earlier))
        entries = asyncio.run(_export(planned, folder))
        now = {entry["task"] for entry in entries}
        _write_manifests(folder, [entry for entry in earlier if entry["task"] not in now] + entries)
        (folder / _PLAN).unlink()
    except OSError as exc:
        raise UsageError(
            f"Cannot write to {exc.filename or folder}: {exc.strerror}.", remedy="Name another folder with --to."
        ) from exc
    finally:
        shutil.rmtree(folder / _ARRIVING, ignore_errors=True)
    missing = [entry for entry in entries if entry["url"] and not entry["file"]]
    files = sum(bool(entry["file"]) for entry in entries)
    if output.json:
        render.print_json({"folder": str(folder), "items": entries})
    else:
        render.print_line(f"{folder}: {counted(files, 'file')}, manifest.csv and {_MANIFEST_FILE}")
    for entry in missing:
        render.notice(f"{entry['label'] or entry['task']}: {entry['message']}")
    return FAILED if missing else OK


class _Owners:
    """Which task each file of a folder belongs to, by its name without suffix and in lower case."""

    def __init__(self, folder: Path, manifest: Sequence[Json]) -> None:
        self._plan = folder / _PLAN
        self._files = {file.stem.lower() for file in folder.iterdir() if file.is_file()}
        self._tasks = _read(self._plan, dict[str, str])
        self._tasks |= {Path(entry["file"]).stem.lower(): entry["task"] for entry in manifest if entry["file"]}

    def choose(self, name: str, task_id: str, *, count: int) -> Sequence[str]:
        """Return the names of a task's files, with its ID if one is another task's or is not of an export."""
        chosen = _numbered(name, count)
        if any(self._is_foreign(each.lower(), task_id) for each in chosen):
            chosen = _numbered(f"{name}-{task_id}", count)
        self._tasks |= {each.lower(): task_id for each in chosen}
        return chosen

    def _is_foreign(self, name: str, task_id: str) -> bool:
        return self._tasks.get(name, "" if name in self._files else task_id) != task_id

    def save(self) -> None:
        """Store whose file each will be, so that an export that is killed resumes."""
        self._plan.write_text(json.dumps(self._tasks), "utf-8")


def _numbered(name: str, count: int) -> Sequence[str]:
    return [name] if count == 1 else [f"{name}-{number + 1}" for number in range(count)]


def _plan(tasks: Sequence[Task], owners: _Owners) -> Sequence[tuple[Task, Sequence[tuple[str, str, Path | None]]]]:
    """Return the files of each task: name without suffix, URL, and the archived file if there is one."""
    planned = []
    for task, name in zip(tasks, stems([(task.id, task.label) for task in tasks]), strict=True):
        locations = list(_locations(task))
        chosen = owners.choose(name, task.id, count=len(locations))
        planned.append((task, [(stem, url, path) for stem, (url, path) in zip(chosen, locations, strict=True)]))
    owners.save()
    return planned


def _read(path: Path, kind: type[Read]) -> Read:
    """Return what an earlier export wrote, or nothing if there was none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return kind()
    except msgspec.MsgspecError as exc:
        raise UsageError(
            f"{path} is not of an earlier export.", remedy="Name another folder with --to, or remove the file."
        ) from exc


async def _export(planned: Sequence[tuple[Task, Sequence[tuple[str, str, Path | None]]]], folder: Path) -> list[Json]:
    http_client = HttpClient(user_agent=f"kling-receiver/{__version__}", guard=OperatorGuard())
    fetcher, entries = Fetcher(http_client), list[Json]()
    try:
        for task, files in planned:
            for stem, url, path in files:
                entries.append(_entry(task, url) | await _place(fetcher, folder, stem, url=url, path=path))
            if not files:
                entries.append(_entry(task, ""))
    finally:
        await http_client.aclose()
    return entries


def _locations(task: Task) -> Iterator[tuple[str, Path | None]]:
    """Yield the URL of each result, and its archived file if there is one on this machine."""
    archived = {asset["url"]: asset.get("path") for asset in task.assets}
    for entries in task.result.values():
        for entry in entries:
            if url := entry.get("url"):
                path = archived.get(url)
                yield url, Path(path) if path else None


async def _place(fetcher: Fetcher, folder: Path, stem: str, *, url: str, path: Path | None) -> Json:
    """Copy the archived file, or download the URL. A file that an earlier export placed is kept."""
    if placed := await asyncio.to_thread(_find_or_copy, folder, stem, path):
        return placed
    fetched = await fetcher.fetch(folder / _ARRIVING / stem, ResultFile(number=0, url=url, fetch_url=url))
    if isinstance(fetched, MissingResult):
        return {"message": f"not downloaded: {fetched.reason}"}
    source = Path(fetched.path or "")
    target = folder / f"{stem}{source.suffix}"
    await asyncio.to_thread(source.replace, target)
    return {"file": target.name, "bytes": fetched.size}


def _find_or_copy(folder: Path, stem: str, path: Path | None) -> Json | None:
    """Return the file that is there or was copied; None if it has to be downloaded."""
    for existing in folder.iterdir():
        if existing.stem.lower() == stem.lower() and existing.is_file():
            return {"file": existing.name, "bytes": existing.stat().st_size}
    if path is None or not probe(path).is_file:
        return None
    target = folder / f"{stem}{path.suffix}"
    part = target.with_name(f".{target.name}.part")  # an interrupted copy is not taken for the file
    try:
        shutil.copyfile(path, part)
    except PermissionError:
        return None
    part.replace(target)
    return {"file": target.name, "bytes": target.stat().st_size}


def _entry(task: Task, url: str) -> Json:
    known = {"label": task.label, "task": task.id, "state": task.state, "endpoint": task.endpoint, "url": url}
    return {"file": "", "bytes": None, "message": task.message} | known


def _write_manifests(folder: Path, entries: Sequence[Json]) -> None:
    ordered = [{name: entry[name] for name in _MANIFEST} for entry in entries]
    (folder / _MANIFEST_FILE).write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n", "utf-8")
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _MANIFEST)
        writer.writeheader()
        writer.writerows({name: _as_text(value) for name, value in entry.items()} for entry in ordered)


def _as_text(value: object) -> object:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
