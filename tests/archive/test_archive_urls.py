"""A URL may end before its file does: Kling is asked for a fresh one before a result is given up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, JPG, PNG, Kling, Workshop, a_cdn, a_workshop, cut_short
from harness.http_peers import response, sending, serving
from harness.support import until

from receiver.archive.fetcher import Bounds
from receiver.archive.policy import SURELY_DEAD
from receiver.domain.model import Archiving, Secret
from receiver.events.factory import HELD_BACK
from receiver.events.payload import result_urls
from receiver.kling.client import Kling as KlingClient
from receiver.kling.simulator import Options, serve
from receiver.kling.simulator.results import content
from receiver.net.http_client import Outbound
from receiver.net.ssrf_guard import PublicGuard
from receiver.settings import KlingSettings
from receiver.tracking.result_refresher import Renewer

ENDPOINT = "images/multi-image2image"
BODY = b'{"prompt": "a cat", "subject_image_list": [{"subject_image": "https://images.example.com/a.png"}]}'


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    async with a_workshop(tmp_path) as shop:
        yield shop


async def test_a_url_that_dies_half_way_goes_on_by_a_fresh_one_from_where_it_was(shop: Workshop) -> None:
    tag = {"content_type": "image/png", "etag": '"v1"'}
    rest = response(206, PNG[1000:], content_range=f"bytes 1000-{len(PNG) - 1}/{len(PNG)}", **tag)
    half = cut_short(PNG, after=1000, **tag)
    is_dead = False

    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (sending(response(403)) if is_dead else half)(reader, writer)

    async with a_cdn(old=dying, fresh=rest) as cdn:
        event = await shop.succeeds(f"{cdn.url}/old?sig=1")
        shop.renewal = Kling(f"{cdn.url}/fresh?sig=2")
        shop.start()
        await until(lambda: any(name.endswith("/.0.part") for name in shop.files()))
        is_dead = True
        await shop.passes(event, SURELY_DEAD - timedelta(seconds=1), lambda: True)
        assert shop.renewal.asked == [], "what was made a moment ago may not be everywhere yet"
        await shop.passes(event, SURELY_DEAD, lambda: True)
        [asset] = await shop.settled(event)

    assert cdn.requests[-1].headers["range"] == "bytes=1000-"
    assert shop.content(asset) == PNG
    assert asset["url"] == f"{cdn.url}/old?sig=1", "it is known by the URL that its event tells of"
    assert shop.renewal.asked == [event.task_id]
    assert await shop.alerts() == []


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_of_results_whose_urls_ended_each_comes_by_its_own_fresh_one(shop: Workshop, status: int) -> None:
    async with a_cdn(a=A_PNG, gone=response(status), b=response(200, JPG, content_type="image/jpeg")) as cdn:
        event = await shop.succeeds(f"{cdn.url}/gone?0", f"{cdn.url}/a", f"{cdn.url}/gone?2")
        shop.renewal = Kling(f"{cdn.url}/a?new", f"{cdn.url}/nowhere", f"{cdn.url}/b?new")
        shop.clock.advance(SURELY_DEAD)
        shop.start()
        assets = await shop.settled(event)

    assert [shop.content(asset) for asset in assets] == [PNG, PNG, JPG]
    assert len(shop.renewal.asked) == 1


@pytest.mark.parametrize("fresh", [[], ["gone"], ["denied"]])
async def test_what_kling_has_no_living_url_of_is_lost(shop: Workshop, fresh: list[str]) -> None:
    async with a_cdn(gone=response(410), denied=response(403)) as cdn:
        event = await shop.succeeds(f"{cdn.url}/gone")
        shop.renewal = Kling(*(f"{cdn.url}/{url}" for url in fresh))
        shop.clock.advance(SURELY_DEAD)
        shop.start()

        assert await shop.settled(event) == []
    assert len(shop.renewal.asked) == 1
    assert [what for what, _ in await shop.alerts()] == ["asset_lost"]


async def test_while_kling_cannot_say_nothing_is_given_up(shop: Workshop) -> None:
    async with a_cdn(gone=response(403), a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/gone")
        shop.renewal = Kling(f"{cdn.url}/a", silent=True)
        shop.start()
        await shop.passes(event, HELD_BACK, lambda: True)
        await shop.settled(event, Archiving.LATE)
        shop.renewal.silent = False
        await shop.passes(event, 2 * HELD_BACK, lambda: True)

        assert len(await shop.settled(event)) == 1
    assert [what for what, _ in await shop.alerts()] == ["asset_lost", "asset_recovered"]


async def test_a_fresh_url_is_guarded_like_any_other(shop: Workshop) -> None:
    async with serving(A_PNG) as secret, a_cdn(gone=response(403)) as cdn:
        event = await shop.succeeds(f"{cdn.url}/gone")
        shop.renewal = Kling(f"http://127.0.0.2:{secret.port}/a")
        shop.clock.advance(SURELY_DEAD)
        shop.start(guard=PublicGuard([ip_network("127.0.0.1/32")]))

        assert await shop.settled(event) == []
        assert secret.connections == 0


async def test_no_url_is_asked_for_where_the_address_or_the_size_is_what_is_wrong(shop: Workshop) -> None:
    async with a_cdn(large=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/large", "http://169.254.169.254/a")
        shop.renewal = Kling()
        shop.clock.advance(SURELY_DEAD)
        shop.start(bounds=Bounds(largest=100))
        await shop.settled(event)

    assert shop.renewal.asked == []


async def test_a_url_of_a_simulated_kling_that_ended_while_nobody_was_here_is_replaced(shop: Workshop) -> None:
    given = {"api_key": "key", "submitted_for": 0, "processing_for": 0, "results_for": "10m", "fresh_urls": 1}
    outbound = Outbound(user_agent="kling-receiver/test")
    async with serve(Options.read(given), clock=shop.clock) as simulator:
        settings = KlingSettings(base_url=simulator.url, api_key=Secret("key"))
        kling = KlingClient(settings, outbound=outbound, clock=shop.clock)
        created = await kling.create(ENDPOINT, BODY)
        assert created.reading is not None
        kling_id = str(created.reading.kling_id)
        old: list[str] = []

        async def has_ended() -> bool:
            answer = await kling.query(ENDPOINT, kling_id)
            old[:] = result_urls(answer.reading.result) if answer.reading is not None else ()
            return bool(old)

        await until(has_ended)
        event = await shop.succeeds(*old, kling_id=kling_id, endpoint=ENDPOINT)
        shop.clock.advance(timedelta(days=2))
        shop.renewal = Renewer(kling)
        shop.start()
        [asset] = await shop.settled(event)

    assert asset["url"] == old[0]
    assert shop.content(asset) == content(kling_id, "image-0.png")
    await outbound.aclose()
