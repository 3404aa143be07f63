"""Results are archived completely or not at all, then events are delivered; no server can prevent that."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from harness.archive_system import A_PNG, JPG, PNG, ArchiveSystem, a_cdn, an_archive_system, truncated_response
from harness.http_peers import Handler, http_peer, respond_with, response
from harness.support import wait_until

from receiver.archive.archiver import MAX_CONCURRENT, abandon
from receiver.archive.fetcher import DownloadLimits
from receiver.archive.policy import GIVE_UP_AFTER, REFUSAL_GRACE, WARN_AFTER
from receiver.delivery.replay import ReplayService
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import ArchiveState, Attempt, DeliveryStatus, Event, Verdict
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.net.download import MinimumRate
from receiver.net.ssrf_guard import PublicGuard
from receiver.service.retention import Retention
from receiver.settings import RetentionSettings, RouteSettings, WebhookSettings
from receiver.store.interfaces import ArchiveUpdate
from receiver.store.sqlite.store import SqliteStore


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[ArchiveSystem]:
    async with an_archive_system(tmp_path) as system:
        yield system


# What comes home


async def test_results_come_home_before_routes_are_told(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG, b=response(200, JPG, content_type="image/jpeg; q=1")) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a?sig=x", f"{cdn.url}/b")
        assert await system.due_by_route(event) == {"publish": False}
        system.start()
        assets = await system.wait_for_assets(event)

    folder = system.folder / str(event.task_id) / event.id
    assert assets == [
        {"url": f"{cdn.url}/a?sig=x", "path": str(folder / "0.png"), "sha256": hashlib.sha256(PNG).hexdigest(),
         "bytes": len(PNG), "content_type": "image/png"},
        {"url": f"{cdn.url}/b", "path": str(folder / "1.jpg"), "sha256": hashlib.sha256(JPG).hexdigest(),
         "bytes": len(JPG), "content_type": "image/jpeg"},
    ]  # fmt: skip
    assert ((folder / "0.png").read_bytes(), (folder / "1.jpg").read_bytes()) == (PNG, JPG)
    assert system.files() == [f"{event.task_id}/{event.id}/{name}" for name in ("0.png", "1.jpg")]
    assert await system.due_by_route(event) == {"publish": True}
    [sent] = await system.store.claim("publish", now=system.clock.now(), until=system.clock.now(), limit=1, claim="c")
    assert json.loads(sent.event.envelope)["data"]["assets"] == assets
    assert (await system.store.stats())["assets"] == 2
    assert await system.alerts() == []


async def test_whoever_waits_for_a_batch_is_woken_when_routes_may_be_told_and_not_before(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        woken = system.notifiers.batches.subscribe()
        assert not woken.is_set()
        system.start()
        await system.wait_for_assets(event)
        async with asyncio.timeout(10):
            await woken.wait()

    assert await system.due_by_route(event) == {"publish": True}


async def test_one_result_that_stands_twice_is_one_file(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/a")
        system.start()

        assert len(await system.wait_for_assets(event)) == 1
        assert len(cdn.requests) == 1


async def test_a_success_without_files_waits_for_nothing(system: ArchiveSystem) -> None:
    event = await system.succeed_task()
    assert await system.archive_state(event) is None
    assert await system.due_by_route(event) == {"publish": True}

    event = await system.succeed_task("data:image/png;base64,xxxx", "ftp://example.com/a.png", "")
    assert await system.due_by_route(event) == {"publish": True}


async def test_a_clients_own_url_waits_for_nothing(system: ArchiveSystem) -> None:
    event = await system.succeed_task("https://cdn.example.com/0.png", reply_to="https://client.example.com/cb")

    assert await system.due_by_route(event) == {"publish": False, "reply:client.example.com": True}


async def test_what_nobody_vouches_for_is_not_fetched_unless_somebody_wants_it(system: ArchiveSystem) -> None:
    event = await system.succeed_task("https://cdn.example.com/0.png", trusted=False)

    assert await system.archive_state(event) is None


async def test_a_probe_of_a_held_route_takes_nothing_that_waits_for_files(system: ArchiveSystem) -> None:
    await system.succeed_task("https://cdn.example.com/0.png")
    now = system.clock.now()

    assert await system.store.claim("publish", now=now, until=now, limit=1, claim="c", early=True) == []
    assert await system.store.release_all(now=now) == 0
    assert await system.store.retry_now("publish", now=now) == 0


async def test_names_are_ours_whatever_a_stranger_calls_a_file(system: ArchiveSystem) -> None:
    hostile = ["..%2f..%2fetc%2fpasswd", "a.php", "%00.sh", "x" * 900, "con.txt%0d%0aSet-Cookie:a", "~root"]
    names = {"content_disposition": 'attachment; filename="../../../evil.sh"'}
    async with http_peer(response(200, JPG, content_type="text/x-shellscript", **names)) as cdn:
        event = await system.succeed_task(*(f"{cdn.url}/{name}" for name in hostile))
        system.start()
        assets = await system.wait_for_assets(event)

    assert [Path(asset["path"]).name for asset in assets] == [f"{n}.jpg" for n in range(6)]
    assert {Path(asset["path"]).parent for asset in assets} == {system.folder / str(event.task_id) / event.id}
    assert len(system.files()) == 6


@pytest.mark.parametrize(
    ("content_type", "body", "name", "told"),
    [
        ("image/png", JPG, "0.png", "image/png"),
        ("image/jpg", JPG, "0.jpg", "image/jpeg"),
        ("video/mp4", b"x", "0.mp4", "video/mp4"),
        ("audio/x-wav", b"x", "0.wav", "audio/wav"),
        ("", PNG, "0.png", "image/png"),
        ("binary/octet-stream", b"\0\0\0\x20ftypisom", "0.mp4", "video/mp4"),
        ("application/octet-stream", b"RIFF\0\0\0\0WEBPVP8 ", "0.webp", "image/webp"),
        ("application/x-sh", b"#!/bin/sh", "0.bin", "application/octet-stream"),
        ("../../etc/passwd", b"root:x", "0.bin", "application/octet-stream"),
    ],
)
async def test_an_ending_is_one_of_a_few_by_type_or_by_how_the_file_begins(
    system: ArchiveSystem, content_type: str, body: bytes, name: str, told: str
) -> None:
    async with http_peer(response(200, body, content_type=content_type)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/0.exe")
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert (Path(asset["path"]).name, asset["content_type"]) == (name, told)


# What goes wrong


async def test_what_broke_off_is_taken_up_again(system: ArchiveSystem) -> None:
    tag = {"content_type": "image/png", "etag": '"v1"'}
    async with a_cdn(a=truncated_response(PNG, after=1000, **tag)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        rest = f"bytes 1000-{len(PNG) - 1}/{len(PNG)}"
        cdn.handler = respond_with(response(206, PNG[1000:], content_range=rest, **tag))
        await system.advance_to_age(event, timedelta(seconds=20), lambda: len(cdn.requests) > 1)
        [asset] = await system.wait_for_assets(event)

    assert cdn.requests[-1].headers["range"] == "bytes=1000-"
    assert system.content(asset) == PNG
    assert asset["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert system.files() == [f"{event.task_id}/{event.id}/0.png"]


async def test_a_file_that_is_another_one_by_now_is_taken_anew(system: ArchiveSystem) -> None:
    async with a_cdn(a=truncated_response(PNG, after=1000, content_type="image/png", etag='"v1"')) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        cdn.handler = respond_with(response(200, JPG, content_type="image/jpeg", etag='"v2"'))
        await system.advance_to_age(event, timedelta(seconds=20), lambda: len(cdn.requests) > 1)
        [asset] = await system.wait_for_assets(event)

    assert system.content(asset) == JPG
    assert system.files() == [f"{event.task_id}/{event.id}/0.jpg"]


async def test_a_dead_url_is_lost_soon_and_routes_are_told_of_the_rest(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG, gone=response(410), denied=response(403)) as cdn:
        event = await system.succeed_task(*(f"{cdn.url}/{name}" for name in ("gone", "a", "nowhere", "denied")))
        system.start()
        await wait_until(lambda: len(cdn.requests) == 4)
        await system.advance_to_age(event, REFUSAL_GRACE, lambda: True)
        assets = await system.wait_for_assets(event)

    assert [Path(asset["path"]).name for asset in assets] == ["1.png"]
    assert await system.due_by_route(event) == {"publish": True}
    [(what, told)] = await system.alerts()
    assert what == "asset_lost"
    assert told["message"] == "3 of 4 results cannot be archived and are no longer retried."
    assert told["event"] == event.id
    assert told["task"]["id"] == event.task_id
    assert [(one["number"], one["reason"][-13:], one["still_tried"]) for one in told["results"]] == [
        (0, "answered 410.", False), (2, "answered 404.", False), (3, "answered 403.", False),
    ]  # fmt: skip
    [alert] = (await system.store.events(types=["alert.asset_lost"])).items
    assert await system.due_by_route(alert) == {"on-call": True}


async def test_nothing_is_left_of_what_was_lost(system: ArchiveSystem) -> None:
    async with a_cdn(a=truncated_response(PNG, after=1000, content_type="image/png", etag='"v1"')) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        cdn.handler = respond_with(response(410))
        await system.advance_to_age(event, REFUSAL_GRACE, lambda: True)
        await system.wait_for_assets(event)
        await wait_until(lambda: list(system.folder.iterdir()) == [])


async def test_a_404_of_the_first_moment_is_not_believed(system: ArchiveSystem) -> None:
    async with a_cdn() as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: len(cdn.requests) == 1)
        cdn.handler = respond_with(A_PNG)
        await system.advance_to_age(event, timedelta(seconds=10), lambda: True)

        assert len(await system.wait_for_assets(event)) == 1
    assert await system.alerts() == []


async def test_a_server_that_is_down_holds_routes_back_for_an_hour_and_is_tried_on(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG, b=response(503)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start()
        await wait_until(lambda: len(cdn.requests) == 2)
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT - timedelta(seconds=1), lambda: True)
        assert await system.due_by_route(event) == {"publish": False}
        assert await system.archive_state(event) is ArchiveState.PENDING

        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        assert len(await system.wait_for_assets(event, ArchiveState.LATE)) == 1
        assert await system.due_by_route(event) == {"publish": True}

        await system.advance_to_age(event, WARN_AFTER, lambda: True)
        await system.wait_for_assets(event, ArchiveState.EXPIRING)
        assert [what for what, _ in await system.alerts()] == ["asset_lost", "asset_expiring"]
        assert (await system.alerts())[0][1]["results"][0]["still_tried"] is True

        cdn.handler = respond_with(A_PNG)
        await system.advance_to_age(event, WARN_AFTER + timedelta(hours=1), lambda: True)
        assert len(await system.wait_for_assets(event)) == 2

    assert [what for what, _ in await system.alerts()] == ["asset_lost", "asset_expiring", "asset_recovered"]
    assert len(cdn.requests) < 60, "the waits grow"


async def test_when_urls_have_lived_their_life_it_ends(system: ArchiveSystem) -> None:
    event = await system.succeed_task("http://127.0.0.1:1/a")
    system.clock.advance(GIVE_UP_AFTER)
    system.start()

    assert await system.wait_for_assets(event) == []
    assert [what for what, _ in await system.alerts()] == ["asset_lost"]


async def test_even_if_nobody_looks_after_it_routes_are_told_after_an_hour(system: ArchiveSystem) -> None:
    event = await system.succeed_task("http://127.0.0.1:1/a")

    system.clock.advance(MAX_ARCHIVE_WAIT)

    assert await system.due_by_route(event) == {"publish": True}


@pytest.mark.parametrize("place", ["http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/"])
async def test_a_private_address_is_not_dialled(system: ArchiveSystem, place: str) -> None:
    async with http_peer(response(302, location=place)) as cdn:
        event = await system.succeed_task(place, f"{cdn.url}/a")
        system.start(guard=PublicGuard([ip_network("127.0.0.9/32")]))
        system.clock.advance(REFUSAL_GRACE)
        await system.wait_for_assets(event)

    [(what, told)] = await system.alerts()
    assert what == "asset_lost"
    assert len(told["results"]) == 2
    assert all("never dialled" in one["reason"] or "not public" in one["reason"] for one in told["results"])
    assert cdn.connections == 0


async def test_a_redirect_to_a_private_address_is_not_followed(system: ArchiveSystem) -> None:
    async with (
        http_peer(A_PNG) as secret,
        http_peer(response(302, location=f"http://127.0.0.2:{secret.port}/a")) as cdn,
    ):
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start(guard=PublicGuard([ip_network("127.0.0.1/32")]))
        system.clock.advance(REFUSAL_GRACE)

        assert await system.wait_for_assets(event) == []
        assert cdn.connections >= 1
        assert secret.connections == 0


async def test_a_redirect_among_public_addresses_is_followed(system: ArchiveSystem) -> None:
    async with http_peer(A_PNG) as other, http_peer(response(302, location=f"{other.url}/b")) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert asset["url"] == f"{cdn.url}/a", "it is known by the URL that Kling gave"


async def endless_response(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize("large", [response(200, bytes(60_000), content_type="video/mp4"), endless_response])
async def test_what_is_too_large_is_lost_and_takes_no_room(system: ArchiveSystem, large: bytes | Handler) -> None:
    async with a_cdn(a=large, b=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start(limits=DownloadLimits(max_bytes=50_000))
        system.clock.advance(REFUSAL_GRACE)
        assert len(await system.wait_for_assets(event)) == 1

    [(what, told)] = await system.alerts()
    assert (what, "larger than 50000 bytes" in told["results"][0]["reason"]) == ("asset_lost", True)
    assert system.files() == [f"{event.task_id}/{event.id}/1.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        truncated_response(PNG, after=len(PNG) - 1, content_type="image/png"),
        response(200, b"", content_type="image/png"),
        response(200, b"<html>log in</html>", content_type="text/html; charset=utf-8"),
        response(200, PNG, content_type="image/png", content_encoding="gzip"),
        response(206, PNG, content_type="image/png", content_range="bytes 0-9/99"),
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"not http at all\r\n\r\n",
    ],
)
async def test_what_is_no_whole_file_is_never_taken_for_one(system: ArchiveSystem, wrong: bytes | Handler) -> None:
    async with a_cdn(a=wrong) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: len(cdn.requests) > 1)

        assert await system.wait_for_assets(event, ArchiveState.LATE) == []
    assert not any(name.endswith("/0.png") for name in system.files())


async def test_a_trickle_does_not_hold_its_place(system: ArchiveSystem) -> None:
    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with a_cdn(drip=dripping, a=A_PNG) as cdn:
        slow = await system.succeed_task(*(f"{cdn.url}/drip?{n}" for n in range(3 * MAX_CONCURRENT)))
        system.start(limits=DownloadLimits(minimum_rate=MinimumRate(min_bytes=10_000, seconds=0.1)))
        await wait_until(lambda: len(cdn.requests) >= MAX_CONCURRENT)
        quick = await system.succeed_task(f"{cdn.url}/a")

        assert len(await system.wait_for_assets(quick)) == 1
    assert await system.archive_state(slow) is ArchiveState.PENDING


async def test_no_more_than_a_few_downloads_go_on_at_once_and_each_task_has_its_share(system: ArchiveSystem) -> None:
    go = asyncio.Semaphore(0)

    async def waiting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.acquire()
        writer.write(A_PNG)

    async with http_peer(waiting) as cdn:
        many = await system.succeed_task(*(f"{cdn.url}/many?{n}" for n in range(9)))
        system.start()
        await wait_until(lambda: len(cdn.requests) == MAX_CONCURRENT)
        few = await system.succeed_task(f"{cdn.url}/few")
        await wait_until(lambda: few.id in system.archiver._jobs)
        assert len(cdn.requests) == MAX_CONCURRENT

        go.release()
        await wait_until(lambda: len(cdn.requests) == MAX_CONCURRENT + 1)
        assert cdn.requests[-1].line.split()[1] == "/few"
        for _ in range(9):
            go.release()
        await system.wait_for_assets(many)
        await system.wait_for_assets(few)


# Crashes and faults


async def test_what_was_under_way_is_found_again_after_a_restart(system: ArchiveSystem) -> None:
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
    asked = [request.line.split()[1] for request in cdn.requests[before:]]
    assert asked == ["/b"], "archived files are not fetched again"


async def test_of_a_large_file_a_restart_asks_for_the_rest_alone(system: ArchiveSystem) -> None:
    film = b"\0\0\0\x20ftypisom" + bytes(20 * 1024 * 1024)
    headers = {"content_type": "video/mp4", "etag": '"v1"'}

    async def film_of_two_parts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = cdn.requests[-1].headers.get("range")
        if asked is None:
            writer.write(response(200, film, **headers)[:-1000])
            await asyncio.sleep(60)
        start = int(str(asked).removeprefix("bytes=").removesuffix("-"))
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


async def test_a_file_that_came_home_and_was_not_written_down_is_not_fetched_again(system: ArchiveSystem) -> None:
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
async def test_notes_that_cannot_be_are_not_believed(system: ArchiveSystem, notes: str) -> None:
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

    def __init__(self, store: SqliteStore, failures: int, error: Exception) -> None:
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
async def test_a_fault_of_the_store_or_of_ours_costs_a_wait_and_no_download(
    system: ArchiveSystem, error: Exception
) -> None:
    async with a_cdn(a=A_PNG, b=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start(archive_store=FailingStore(system.store, 3, error))
        while await system.archive_state(event) is not None:
            system.clock.advance(timedelta(seconds=30))
            await asyncio.sleep(0.01)

        assert len((await system.data(event))["assets"]) == 2
        assert len(cdn.requests) == 2


async def test_a_replay_weeks_later_still_has_its_files(system: ArchiveSystem) -> None:
    routes = [RouteSettings(name="publish", webhook=WebhookSettings(url="https://app.example.com/"))]
    replayer = ReplayService(
        system.store.replays,
        system.store,
        routes=routes,
        notifiers=system.notifiers,
        clock=system.clock,
        ids=system.ids,
    )
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        assets = await system.wait_for_assets(event)
    await deliver_due(system)

    system.clock.advance(timedelta(weeks=8))
    await Retention(system.store, RetentionSettings(), clock=system.clock).sweep(asyncio.Event())
    [old] = (await system.store.deliveries(event_id=event.id)).items
    await replayer.retry(old.delivery.id, why="", actor="alice")
    again = await deliver_due(system)

    assert json.loads(again.envelope)["data"]["assets"] == assets
    assert [system.content(asset) for asset in assets] == [PNG]


async def deliver_due(system: ArchiveSystem) -> Event:
    """Have the one delivery that is due delivered; give its event as it went out."""
    now = system.clock.now()
    [claimed] = await system.store.claim("publish", now=now, until=now + timedelta(minutes=1), limit=9, claim="c")
    attempt = Attempt(
        delivery_id=claimed.delivery.id, number=1, started_at=now, duration=timedelta(), outcome="delivered"
    )
    verdict = Verdict(status=DeliveryStatus.DELIVERED, due_at=now, finished_at=now)
    assert await system.store.record_attempt(attempt, verdict, claim="c")
    return claimed.event


async def test_where_results_are_left_where_they_are_routes_wait_no_more(system: ArchiveSystem) -> None:
    event = await system.succeed_task("https://cdn.example.com/0.png")

    await abandon(system.store, clock=system.clock)

    assert await system.archive_state(event) is None
    assert await system.due_by_route(event) == {"publish": True}
    assert await system.store.next_due(exclude=()) is None
