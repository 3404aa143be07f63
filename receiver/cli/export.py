"""`kling-receiver batches export`: lays the results of a batch down in a folder, with a manifest."""

import asyncio
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from receiver import __version__
from receiver.archive.fetcher import Fetcher, ResultFile
from receiver.archive.retry import MissingResult
from receiver.cli import FAILED, OK, render
from receiver.cli.options import ClientOptions, UsageError
from receiver.client import Task
from receiver.domain.counting import counted
from receiver.domain.model import Json
from receiver.domain.result_names import stems
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import OperatorGuard
from receiver.settings.paths import probe

_MANIFEST = ("file", "label", "task", "state", "endpoint", "url", "bytes", "message")
_ARRIVING = ".arriving"


def export(tasks: Sequence[Task], folder: Path, output: ClientOptions) -> int:
    """Write the files of the tasks and both manifests into *folder*. Return 1 if a file could not be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = asyncio.run(_export(tasks, folder))
        _write_manifests(folder, entries)
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
        render.print_line(f"{folder}: {counted(files, 'file')}, manifest.csv and manifest.json")
    for entry in missing:
        render.notice(f"{entry['label'] or entry['task']}: {entry['message']}")
    return FAILED if missing else OK


async def _export(tasks: Sequence[Task], folder: Path) -> list[Json]:
    http_client = HttpClient(user_agent=f"kling-receiver/{__version__}", guard=OperatorGuard())
    fetcher, entries = Fetcher(http_client), list[Json]()
    names = stems([(task.id, task.label) for task in tasks])
    try:
        for task, name in zip(tasks, names, strict=True):
            locations = list(_locations(task))
            for number, (url, path) in enumerate(locations):
                stem = name if len(locations) == 1 else f"{name}-{number + 1}"
                entries.append(_entry(task, url) | await _place(fetcher, folder, stem, url=url, path=path))
            if not locations:
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
        if existing.stem == stem and existing.is_file():
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
    (folder / "manifest.json").write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n", "utf-8")
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _MANIFEST)
        writer.writeheader()
        writer.writerows({name: _as_text(value) for name, value in entry.items()} for entry in ordered)


def _as_text(value: object) -> object:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
