"""Failed downloads: retried, bounded, reported, and never taken for a file."""

import asyncio
import hashlib
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, JPG, PNG, ArchiveSystem, a_cdn, truncated_response
from harness.http_peers import Handler, http_peer, respond_with, response
from harness.waiting import wait_until

from receiver.archive.archiver import MAX_CONCURRENT
from receiver.archive.fetcher import DownloadLimits
from receiver.archive.retry import GIVE_UP_AFTER, REFUSAL_GRACE, WARN_AFTER
from receiver.domain.model import ArchiveState, Event
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.net.download import MinimumRate
from receiver.net.ssrf_guard import PublicGuard

# What goes wrong


async def test_an_interrupted_download_is_resumed(system: ArchiveSystem) -> None:
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


async def test_a_file_that_changed_at_its_url_is_downloaded_from_the_start(system: ArchiveSystem) -> None:
    async with a_cdn(a=truncated_response(PNG, after=1000, content_type="image/png", etag='"v1"')) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        cdn.handler = respond_with(response(200, JPG, content_type="image/jpeg", etag='"v2"'))
        await system.advance_to_age(event, timedelta(seconds=20), lambda: len(cdn.requests) > 1)
        [asset] = await system.wait_for_assets(event)

    assert system.content(asset) == JPG
    assert system.files() == [f"{event.task_id}/{event.id}/0.jpg"]


async def test_dead_urls_are_given_up_early_and_the_other_results_delivered(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG, gone=response(410), denied=response(403)) as cdn:
        event = await system.succeed_task(*(f"{cdn.url}/{name}" for name in ("gone", "a", "nowhere", "denied")))
        system.start()
        await wait_until(lambda: len(cdn.requests) == 4)
        await system.advance_to_age(event, REFUSAL_GRACE, lambda: True)
        assets = await system.wait_for_assets(event)

    assert [Path(asset["path"]).name for asset in assets] == ["1.png"]
    assert await system.due_by_route(event) == {"publish": True}
    [(what, data)] = await system.alerts()
    assert what == "asset_lost"
    assert data["message"] == "3 of 4 results cannot be archived and are no longer retried."
    assert data["event"] == event.id
    assert data["task"]["id"] == event.task_id
    assert [(one["number"], one["reason"][-13:], one["still_tried"]) for one in data["results"]] == [
        (0, "answered 410.", False), (2, "answered 404.", False), (3, "answered 403.", False),
    ]  # fmt: skip
    [alert] = (await system.store.catalog.events(types=["alert.asset_lost"])).items
    assert await system.due_by_route(alert) == {"on-call": True}


async def test_a_lost_result_leaves_no_file(system: ArchiveSystem) -> None:
    async with a_cdn(a=truncated_response(PNG, after=1000, content_type="image/png", etag='"v1"')) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        cdn.handler = respond_with(response(410))
        await system.advance_to_age(event, REFUSAL_GRACE, lambda: True)
        await system.wait_for_assets(event)
        await wait_until(lambda: list(system.folder.iterdir()) == [])


async def test_an_early_404_is_retried(system: ArchiveSystem) -> None:
    async with a_cdn() as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(lambda: len(cdn.requests) == 1)
        cdn.handler = respond_with(A_PNG)
        await system.advance_to_age(event, timedelta(seconds=10), lambda: True)

        assert len(await system.wait_for_assets(event)) == 1
    assert await system.alerts() == []


async def test_a_server_that_is_down_delays_delivery_by_at_most_an_hour(system: ArchiveSystem) -> None:
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


async def test_archiving_ends_when_the_urls_have_expired(system: ArchiveSystem) -> None:
    event = await system.succeed_task("http://127.0.0.1:1/a")
    system.clock.advance(GIVE_UP_AFTER)
    system.start()

    assert await system.wait_for_assets(event) == []
    assert [what for what, _ in await system.alerts()] == ["asset_lost"]


async def test_delivery_starts_after_an_hour_even_without_the_archiver(system: ArchiveSystem) -> None:
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

    [(what, alert)] = await system.alerts()
    assert what == "asset_lost"
    assert len(alert["results"]) == 2
    assert all("never dialled" in one["reason"] or "not public" in one["reason"] for one in alert["results"])
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
async def test_a_result_that_is_too_large_is_lost_and_leaves_no_file(
    system: ArchiveSystem, large: bytes | Handler
) -> None:
    async with a_cdn(a=large, b=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start(limits=DownloadLimits(max_bytes=50_000))
        system.clock.advance(REFUSAL_GRACE)
        assert len(await system.wait_for_assets(event)) == 1

    [(what, alert)] = await system.alerts()
    assert (what, "larger than 50000 bytes" in alert["results"][0]["reason"]) == ("asset_lost", True)
    assert system.files() == [f"{event.task_id}/{event.id}/1.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        truncated_response(PNG, after=len(PNG) - 1, content_type="image/png"),
        response(200, b"", content_type="image/png"),
        response(200, b"<html>log in</html>", content_type="text/html; charset=utf-8"),
        response(200, b'{"code": 404}', content_type="application/json"),
        response(200, b"<Error><Code>AccessDenied</Code></Error>", content_type="application/octet-stream"),
        truncated_response(b'{"code": 404}', after=9, content_type="image/png"),
        response(200, PNG, content_type="image/png", content_encoding="gzip"),
        response(206, PNG, content_type="image/png", content_range="bytes 0-9/99"),
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"not http at all\r\n\r\n",
    ],
)
async def test_an_incomplete_response_is_never_archived(system: ArchiveSystem, wrong: bytes | Handler) -> None:
    async with a_cdn(a=wrong) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await wait_until(partial(is_retried_later, system, event))
        system.clock.advance(MAX_ARCHIVE_WAIT)

        assert await system.wait_for_assets(event, ArchiveState.LATE) == []
        assert len(cdn.requests) > 1
    assert not any(name.endswith("/0.png") for name in system.files())


async def is_retried_later(system: ArchiveSystem, event: Event) -> bool:
    """Return whether the first round of an event has ended without all of its files."""
    due = await system.store.archive.next_due(exclude=())
    return due is not None and due > event.created_at


async def test_a_download_below_the_minimum_rate_frees_its_slot(system: ArchiveSystem) -> None:
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


async def test_concurrent_downloads_are_limited_and_shared_between_tasks(system: ArchiveSystem) -> None:
    go = asyncio.Semaphore(0)

    async def waiting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.acquire()
        writer.write(A_PNG)

    async with http_peer(waiting) as cdn:
        many = await system.succeed_task(*(f"{cdn.url}/many?{n}" for n in range(9)))
        system.start()
        await wait_until(lambda: len(cdn.requests) == MAX_CONCURRENT)
        few = await system.succeed_task(f"{cdn.url}/few")
        await wait_until(lambda: few.id in system.archiver._in_progress)
        assert len(cdn.requests) == MAX_CONCURRENT

        go.release()
        await wait_until(lambda: len(cdn.requests) == MAX_CONCURRENT + 1)
        assert cdn.requests[-1].line.split()[1] == "/few"
        for _ in range(9):
            go.release()
        await system.wait_for_assets(many)
        await system.wait_for_assets(few)
