"""Results of a task as the console shows them: each file with its address here, its thumbnail, and Kling's URL."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from receiver.archive.previews import Previews
from receiver.archive.reader import file_name
from receiver.domain.model import Asset, Event, Json
from receiver.events.payload import result_urls
from receiver.store.interfaces import StoredResult, TaskResults
from receiver.web.resources.results import SHOWN_TYPES, preview_name

KLING_LIFETIME = timedelta(days=30)
"""How long Kling's URLs live. Those of some gateways live for one day."""

_KINDS = {"images": "image", "videos": "video", "audios": "audio"}


class ShownResult(msgspec.Struct, frozen=True, kw_only=True):
    """One result. ``path`` is its address on this listener if it is archived; ``thumbnail`` that of a small picture.

    ``kind`` is image, video, audio or file.
    """

    kind: str
    number: int
    url: str
    stored: StoredResult | None = None
    path: str | None = None
    thumbnail: str | None = None


class ShownTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task with its results. ``expires_at`` is when Kling's URLs expire, if a result is not archived.

    ``is_test``: `trigger` made it up, so Kling has no such files.
    """

    id: str
    label: str | None
    endpoint: str | None
    batch: str | None
    tags: Mapping[str, str]
    ended_at: datetime
    results: Sequence[ShownResult]
    expires_at: datetime | None
    is_test: bool = False

    @property
    def cover(self) -> ShownResult | None:
        """The first archived picture or video."""
        return next((each for each in self.results if each.path and each.kind in ("image", "video")), None)


def results_of_event(event: Event, previews: Previews) -> ShownTask:
    """Return the results of a task's final event."""
    found = TaskResults(
        task_id=event.task_id or "", event_id=event.id, created_at=event.created_at, envelope=event.envelope
    )
    return shown_task(found, previews)


def shown_task(found: TaskResults, previews: Previews) -> ShownTask:
    """Return a task with its results as its event lists them."""
    data: Json = json.loads(found.envelope)["data"]
    task: Json = data.get("task") or {}
    results = _results(found, data, previews)
    is_archived = all(result.path is not None for result in results)
    is_test = bool(data.get("test"))
    return ShownTask(
        id=found.task_id,
        label=task.get("label"),
        endpoint=task.get("endpoint"),
        batch=task.get("batch"),
        tags=task.get("tags") or {},
        ended_at=found.created_at,
        results=results,
        expires_at=None if is_archived or is_test else found.created_at + KLING_LIFETIME,
        is_test=is_test,
    )


def _results(found: TaskResults, data: Json, previews: Previews) -> Sequence[ShownResult]:
    result: Mapping[str, Sequence[Json]] = data.get("result") or {}
    urls = result_urls(result)
    kinds = {url: _KINDS.get(name, "file") for name, entries in result.items() for url in result_urls({name: entries})}
    assets = {asset["url"]: asset for asset in data.get("assets") or ()}
    return [
        _archived(found, assets[url], number, previews)
        if url in assets
        else ShownResult(kind=kinds[url], number=number, url=url)
        for number, url in enumerate(urls)
    ]


def _archived(found: TaskResults, described: Json, number: int, previews: Previews) -> ShownResult:
    asset = Asset(
        number=number,
        url=described["url"],
        path=described.get("path"),
        storage=described.get("storage"),
        sha256=bytes.fromhex(described["sha256"]),
        size=described["bytes"],
        content_type=described["content_type"],
    )
    kind = asset.content_type.partition("/")[0] if asset.content_type in SHOWN_TYPES else "file"
    folder = f"/results/{found.task_id}"
    path = f"{folder}/{file_name(asset)}"
    thumbnail = None
    if kind == "image":  # without the extra, the browser makes the picture itself small
        has_preview = previews.can_show(asset.content_type, asset.size)
        thumbnail = f"{folder}/{preview_name(number)}" if has_preview else path
    return ShownResult(
        kind=kind,
        number=number,
        url=asset.url,
        stored=StoredResult(task_id=found.task_id, event_id=found.event_id, asset=asset),
        path=path,
        thumbnail=thumbnail,
    )
