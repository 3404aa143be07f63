"""A URL may end before its file does: Kling is asked for a fresh one before a result is given up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness.archive_system import (
    A_PNG,
    JPG,
    PNG,
    ArchiveSystem,
    FakeUrlRefresher,
    a_cdn,
    an_archive_system,
    truncated_response,
)
from harness.http_peers import http_peer, respond_with, response
from harness.waiting import wait_until

from receiver.archive.fetcher import DownloadLimits
from receiver.archive.retry import REFUSAL_GRACE
from receiver.domain.model import ArchiveState
from receiver.domain.secret import Secret
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.events.payload import result_urls
from receiver.kling.client import KlingClient
from receiver.kling.simulator import Options, serve
from receiver.kling.simulator.results import content
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import PublicGuard
from receiver.settings import KlingSettings
from receiver.tracking.result_refresher import ResultRefresher

ENDPOINT = "images/multi-image2image"
BODY = b'{"prompt": "a cat", "subject_image_list": [{"subject_image": "https://images.example.com/a.png"}]}'


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[ArchiveSystem]:
    async with an_archive_system(tmp_path) as system:
        yield system


async def test_a_download_whose_url_expires_resumes_from_a_fresh_url(system: ArchiveSystem) -> None:
    tag = {"content_type": "image/png", "etag": '"v1"'}
    rest = response(206, PNG[1000:], content_range=f"bytes 1000-{len(PNG) - 1}/{len(PNG)}", **tag)
    half = truncated_response(PNG, after=1000, **tag)
    is_dead = False

    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (respond_with(response(403)) if is_dead else half)(reader, writer)

    async with a_cdn(old=dying, fresh=rest) as cdn:
        event = await system.succeed_task(f"{cdn.url}/old?sig=1")
        system.url_refresher = FakeUrlRefresher(f"{cdn.url}/fresh?sig=2")
        system.start()
        await wait_until(lambda: any(name.endswith("/.0.part") for name in system.files()))
        is_dead = True
        await system.advance_to_age(event, REFUSAL_GRACE - timedelta(seconds=1), lambda: True)
        assert system.url_refresher.requested == [], "what was made a moment ago may not be everywhere yet"
        await system.advance_to_age(event, REFUSAL_GRACE, lambda: True)
        [asset] = await system.wait_for_assets(event)

    assert cdn.requests[-1].headers["range"] == "bytes=1000-"
    assert system.content(asset) == PNG
    assert asset["url"] == f"{cdn.url}/old?sig=1", "it is known by the URL that its event tells of"
    assert system.url_refresher.requested == [event.task_id]
    assert await system.alerts() == []


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_each_result_with_an_expired_url_is_downloaded_from_its_own_fresh_url(
    system: ArchiveSystem, status: int
) -> None:
    async with a_cdn(a=A_PNG, gone=response(status), b=response(200, JPG, content_type="image/jpeg")) as cdn:
        event = await system.succeed_task(f"{cdn.url}/gone?0", f"{cdn.url}/a", f"{cdn.url}/gone?2")
        system.url_refresher = FakeUrlRefresher(f"{cdn.url}/a?new", f"{cdn.url}/nowhere", f"{cdn.url}/b?new")
        system.clock.advance(REFUSAL_GRACE)
        system.start()
        assets = await system.wait_for_assets(event)

    assert [system.content(asset) for asset in assets] == [PNG, PNG, JPG]
    assert len(system.url_refresher.requested) == 1


@pytest.mark.parametrize("fresh", [[], ["gone"], ["denied"]])
async def test_a_result_without_a_working_url_is_lost(system: ArchiveSystem, fresh: list[str]) -> None:
    async with a_cdn(gone=response(410), denied=response(403)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/gone")
        system.url_refresher = FakeUrlRefresher(*(f"{cdn.url}/{url}" for url in fresh))
        system.clock.advance(REFUSAL_GRACE)
        system.start()

        assert await system.wait_for_assets(event) == []
    assert len(system.url_refresher.requested) == 1
    assert [what for what, _ in await system.alerts()] == ["asset_lost"]


async def test_no_result_is_given_up_while_kling_cannot_be_polled(system: ArchiveSystem) -> None:
    async with a_cdn(gone=response(403), a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/gone")
        system.url_refresher = FakeUrlRefresher(f"{cdn.url}/a", is_unreachable=True)
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event, ArchiveState.LATE)
        system.url_refresher.is_unreachable = False
        await system.advance_to_age(event, 2 * MAX_ARCHIVE_WAIT, lambda: True)

        assert len(await system.wait_for_assets(event)) == 1
    assert [what for what, _ in await system.alerts()] == ["asset_lost", "asset_recovered"]


async def test_a_fresh_url_is_guarded_like_any_other(system: ArchiveSystem) -> None:
    async with http_peer(A_PNG) as secret, a_cdn(gone=response(403)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/gone")
        system.url_refresher = FakeUrlRefresher(f"http://127.0.0.2:{secret.port}/a")
        system.clock.advance(REFUSAL_GRACE)
        system.start(guard=PublicGuard([ip_network("127.0.0.1/32")]))

        assert await system.wait_for_assets(event) == []
        assert secret.connections == 0


async def test_no_fresh_url_is_requested_for_a_blocked_address_or_a_size(system: ArchiveSystem) -> None:
    async with a_cdn(large=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/large", "http://169.254.169.254/a")
        system.url_refresher = FakeUrlRefresher()
        system.clock.advance(REFUSAL_GRACE)
        system.start(limits=DownloadLimits(max_bytes=100))
        await system.wait_for_assets(event)

    assert system.url_refresher.requested == []


async def test_a_simulated_url_that_expired_during_downtime_is_replaced(system: ArchiveSystem) -> None:
    given = {"api_key": "key", "submitted_for": 0, "processing_for": 0, "results_for": "10m", "fresh_urls": 1}
    http_client = HttpClient(user_agent="kling-receiver/test")
    async with serve(Options.parse(given), clock=system.clock) as simulator:
        settings = KlingSettings(base_url=simulator.url, api_key=Secret("key"))
        kling = KlingClient(settings, http_client=http_client, clock=system.clock)
        created = await kling.create(ENDPOINT, BODY)
        assert created.report is not None
        kling_id = str(created.report.kling_id)
        old: list[str] = []

        async def has_ended() -> bool:
            answer = await kling.query(ENDPOINT, kling_id)
            old[:] = result_urls(answer.report.result) if answer.report is not None else ()
            return bool(old)

        await wait_until(has_ended)
        event = await system.succeed_task(*old, kling_id=kling_id, endpoint=ENDPOINT)
        system.clock.advance(timedelta(days=2))
        system.url_refresher = ResultRefresher(kling)
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert asset["url"] == old[0]
    assert system.content(asset) == content(kling_id, "image-0.png")
    await http_client.aclose()
