"""One event whose results are being archived: which files are archived, and which are missing."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from receiver.archive.fetcher import ResultFile
from receiver.archive.retry import ArchiveAlert, MissingResult
from receiver.domain.model import Asset, Event, Json
from receiver.events.payload import result_urls, with_assets


class ArchiveJob(msgspec.Struct, kw_only=True):
    """One event being archived, with its archived files so far. ``event`` is the stored one."""

    event: Event
    folder: Path
    result: Json
    urls: Sequence[str]
    assets: dict[int, Asset]
    save_lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    @classmethod
    def from_event(cls, event: Event, folder: Path) -> Self:
        """Read from an event which results it has and which are archived already."""
        data = json.loads(event.envelope)["data"]
        urls = result_urls(data["result"])
        archived = [
            _asset_from_json(urls.index(asset["url"]), asset)
            for asset in data.get("assets", ())
            if asset["url"] in urls
        ]
        return cls(
            event=event,
            folder=folder / str(event.task_id) / event.id,
            result=data["result"],
            urls=urls,
            assets={asset.number: asset for asset in archived},
        )

    def missing(self, *, require_copy: bool) -> Sequence[ResultFile]:
        """Return each result that is not archived. With *require_copy* it must also have a copy in the object store."""
        archived = {number for number, asset in self.assets.items() if asset.storage is not None or not require_copy}
        return [
            ResultFile(number=number, url=url, fetch_url=url)
            for number, url in enumerate(self.urls)
            if number not in archived
        ]

    def envelope(self) -> bytes:
        """Return the event's envelope with all files archived so far."""
        if not self.assets:
            return self.event.envelope
        return with_assets(self.event.envelope, [self.assets[number] for number in sorted(self.assets)])


def _asset_from_json(number: int, asset: Json) -> Asset:
    """Read an asset from the event's JSON."""
    return Asset(
        number=number,
        url=asset["url"],
        path=asset.get("path"),
        storage=asset.get("storage"),
        sha256=bytes.fromhex(asset["sha256"]),
        size=asset["bytes"],
        content_type=asset["content_type"],
    )


def alert_text(alert: ArchiveAlert, missing: Sequence[MissingResult], *, total: int, still_tried: bool) -> str:
    """Return an alert's message. *total* is the number of results of the event."""
    what = f"{len(missing)} of {total} results"
    are_local = all(result.path for result in missing)
    done = "copied to the object store" if are_local else "archived"
    match alert:
        case ArchiveAlert.LOST if still_tried:
            return f"{what} were not {done} in time. Events are delivered without them; they are still retried."
        case ArchiveAlert.LOST:
            return f"{what} cannot be {done} and are no longer retried."
        case ArchiveAlert.EXPIRING if are_local:
            return f"{what} have not been copied to the object store for a long time; they stay on this machine."
        case ArchiveAlert.EXPIRING:
            return f"{what} have not been archived for a long time and their URLs may expire: download them by hand."
        case ArchiveAlert.RECOVERED:
            return "All results are now archived, but the event was delivered without some. Replay it if needed."
