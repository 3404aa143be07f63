"""Crashes, store errors and late replays lose no archived file."""

import asyncio
import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.archive_system import A_PNG, PNG, ArchiveSystem, a_cdn
from harness.http_peers import http_peer, respond_with, response
from harness.waiting import wait_until

from receiver.archive.archiver import abandon
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import Attempt, DeliveryStatus, Event, Verdict
from receiver.service.retention import Retention
from receiver.service.wiring import build_deliveries
from receiver.settings import RetentionSettings
from receiver.store.interfaces import ArchiveStore, ArchiveUpdate

# Crashes and faults


async def test_downloads_in_flight_are_found_again_after_a_restart(system: ArchiveSystem) -> None:
    async def hanging(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, PNG, content_type="image/png")[:-100])
        await asyncio.sleep(60)

    async with a_cdn(a=A_PNG, b=hanging) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start()
        await wait_until(lambda: any(name.endswith("/1.png.part") for name in system.files()))
        await wait_until(lambda: any(name.endswith("/0.png") for name in system.files()))
        await system.shut_down()
        before = len(cdn.requests)
        cdn.handler = respond_with(A_PNG)
        system.start()
        assets = await system.wait_for_assets(event)

    assert [Path(asset["path"]).name for asset in assets] == ["0.png", "1.png"]
    requested = [request.line.split()[1] for request in cdn.requests[before:]]
    assert requested == ["/b"], "archived files are not fetched again"


async def test_a_restart_requests_only_the_rest_of_a_large_file(system: ArchiveSystem) -> None:
    film = b"\0\0\0\x20ftypisom" + bytes(20 * 1024 * 1024)
    headers = {"content_type": "video/mp4", "etag": '"v1"'}

    async def film_of_two_parts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requested_range = cdn.requests[-1].headers.get("range")
        if requested_range is None:
            writer.write(response(200, film, **headers)[:-1000])
            await asyncio.sleep(60)
        start = int(str(requested_range).removeprefix("bytes=").removesuffix("-"))
        part = f"bytes {start}-{len(film) - 1}/{len(film)}"
        writer.write(response(206, film[start:], content_range=part, **headers))

    async with http_peer(film_of_two_parts) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        await system.shut_down()
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert int(cdn.requests[-1].headers["range"][6:-1]) >= 16 * 1024 * 1024
    assert asset["sha256"] == hashlib.sha256(film).hexdigest()


async def test_a_complete_file_that_was_not_recorded_is_not_downloaded_again(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        folder = system.folder / str(event.task_id) / event.id
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(PNG)
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert cdn.connections == 0
    assert (asset["bytes"], asset["sha256"]) == (len(PNG), hashlib.sha256(PNG).hexdigest())


@pytest.mark.parametrize(
    "notes",
    [
        "",
        "{",
        "[]",
        '{"name": "../../x"}',
        '{"name": "../../../receiver.db", "size": 10, "content_type": "", "validator": "x"}',
        '{"name": "0.png.part", "size": 9999, "content_type": "image/png", "validator": "x"}',
    ],
)
async def test_an_invalid_record_of_a_partial_file_is_ignored(system: ArchiveSystem, notes: str) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        folder = system.folder / str(event.task_id) / event.id
        folder.mkdir(parents=True)
        (folder / ".0.part").write_text(notes)
        (folder / "0.png.part").write_bytes(b"old")
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert "range" not in cdn.requests[0].headers
    assert system.content(asset) == PNG


class FailingStore:
    """A store that cannot write for a while."""

    def __init__(self, store: ArchiveStore, failures: int, error: Exception) -> None:
        self._store = store
        self._failures_left = failures
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def save(self, update: ArchiveUpdate) -> bool:
        if self._failures_left:
            self._failures_left -= 1
            raise self._error
        return await self._store.save(update)


@pytest.mark.parametrize("error", [StoreUnavailable("The disk is full."), RuntimeError("a fault of ours")])
async def test_a_store_error_or_a_bug_delays_archiving_and_repeats_no_download(
    system: ArchiveSystem, error: Exception
) -> None:
    async with a_cdn(a=A_PNG, b=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start(archive_store=FailingStore(system.store.archive, 3, error))
        while await system.archive_state(event) is not None:
            system.clock.advance(timedelta(seconds=30))
            await asyncio.sleep(0.01)

        assert len((await system.data(event))["assets"]) == 2
        assert len(cdn.requests) == 2


async def test_a_replay_weeks_later_still_has_its_files(system: ArchiveSystem) -> None:
    replayer = build_deliveries(system.context, lambda _: None).replays
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        assets = await system.wait_for_assets(event)
    await deliver_due(system)

    system.clock.advance(timedelta(weeks=8))
    await Retention(system.store.retention, RetentionSettings(), clock=system.clock).sweep(asyncio.Event())
    [old] = (await system.store.catalog.deliveries(event_id=event.id)).items
    await replayer.retry(old.delivery.id, why="", actor="alice")
    again = await deliver_due(system)

    assert json.loads(again.envelope)["data"]["assets"] == assets
    assert [system.content(asset) for asset in assets] == [PNG]


async def deliver_due(system: ArchiveSystem) -> Event:
    """Have the one delivery that is due delivered; give its event as it went out."""
    now = system.clock.now()
    [claimed] = await system.store.deliveries.claim(
        "publish", now=now, until=now + timedelta(minutes=1), limit=9, claim="c"
    )
    attempt = Attempt(
        delivery_id=claimed.delivery.id, number=1, started_at=now, duration=timedelta(), outcome="delivered"
    )
    verdict = Verdict(status=DeliveryStatus.DELIVERED, due_at=now, finished_at=now)
    assert await system.store.deliveries.record_attempt(attempt, verdict, claim="c")
    return claimed.event


async def test_with_the_archive_off_deliveries_no_longer_wait_for_files(system: ArchiveSystem) -> None:
    event = await system.succeed_task("https://cdn.example.com/0.png")

    await abandon(system.store.archive, clock=system.clock)

    assert await system.archive_state(event) is None
    assert await system.due_by_route(event) == {"publish": True}
    assert await system.store.archive.next_due(exclude=()) is None
