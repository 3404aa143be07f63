"""One event whose results are on their way home: what of it is there, and what is still to come."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from receiver.archive.fetcher import ResultFile
from receiver.archive.policy import ArchiveAlert, MissingResult
from receiver.domain.model import Asset, Event, Json
from receiver.events.payload import result_urls, with_assets


@dataclass(slots=True, kw_only=True)
class ArchiveJob:
    """One event under way: what of it is home. ``event`` is as it stands in the store."""

    event: Event
    folder: Path
    result: Json
    urls: Sequence[str]
    assets: dict[int, Asset]
    save_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def from_event(cls, event: Event, folder: Path) -> Self:
        """Read from an event what is to be brought home, and what is home already."""
        data = json.loads(event.envelope)["data"]
        urls = result_urls(data["result"])
        home = [
            _asset_from_json(urls.index(asset["url"]), asset)
            for asset in data.get("assets", ())
            if asset["url"] in urls
        ]
        return cls(
            event=event,
            folder=folder / str(event.task_id) / event.id,
            result=data["result"],
            urls=urls,
            assets={asset.number: asset for asset in home},
        )

    def missing(self, *, require_copy: bool) -> Sequence[ResultFile]:
        """Give each result that is not home; with *copied* that is one with no copy in the storage."""
        home = {number for number, asset in self.assets.items() if asset.storage is not None or not require_copy}
        return [
            ResultFile(number=number, url=url, fetch_url=url)
            for number, url in enumerate(self.urls)
            if number not in home
        ]

    def envelope(self) -> bytes:
        """Give the event's object with all that is home by now."""
        if not self.assets:
            return self.event.envelope
        return with_assets(self.event.envelope, [self.assets[number] for number in sorted(self.assets)])


def _asset_from_json(number: int, asset: Json) -> Asset:
    """Read a file back from the event that tells of it."""
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
    """Say for people how it stands with results; *of* is how many the event has."""
    what = f"{len(missing)} of {total} results"
    are_here = all(result.path for result in missing)
    place = "to the storage" if are_here else "home"
    match alert:
        case ArchiveAlert.LOST if still_tried:
            return f"Routes are told without {what}, which did not come {place} in time and are still tried for."
        case ArchiveAlert.LOST:
            return f"{what} cannot be brought {place} and are not tried for any more."
        case ArchiveAlert.EXPIRING if are_here:
            return f"{what} have not come to the storage for long; they are on this machine until they do."
        case ArchiveAlert.EXPIRING:
            return f"{what} have not come home for long, and their URLs may expire: fetch them by hand."
        case ArchiveAlert.RECOVERED:
            return "All results came home after routes were told without some; replay the event where they are wanted."
