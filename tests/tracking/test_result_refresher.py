"""Fresh URLs come from Kling itself; what it denies is not asked for again, and its silence is no denial."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from harness.clock import FakeClock
from harness.factories import a_task
from harness.http_client import plain_http
from harness.waiting import wait_until

from receiver.domain.errors import NoResponse
from receiver.domain.model import Origin, Task
from receiver.domain.secret import Secret
from receiver.events.payload import result_urls
from receiver.kling.client import KlingClient
from receiver.kling.simulator import Options, Simulator, serve
from receiver.net.http_client import HttpClient
from receiver.settings import KlingSettings
from receiver.tracking.result_refresher import ResultRefresher

ENDPOINT = "images/multi-image2image"
BODY = b'{"prompt": "a cat", "n": 2, "subject_image_list": [{"subject_image": "https://images.example.com/a.png"}]}'
LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSystem:
    """A Kling whose URLs live for ten minutes, and who asks it."""

    kling: KlingClient
    simulator: Simulator
    clock: FakeClock
    refresher: ResultRefresher

    async def succeed_task(self) -> tuple[Task, list[str]]:
        """Have a task made; give it with the URLs it was told to have."""
        created = await self.kling.create(ENDPOINT, BODY)
        assert created.report is not None
        kling_id = created.report.kling_id
        urls: list[str] = []

        async def is_there() -> bool:
            answer = await self.kling.query(ENDPOINT, str(kling_id))
            urls[:] = result_urls(answer.report.result) if answer.report is not None else ()
            return bool(urls)

        await wait_until(is_there)
        return a_task(kling_id=kling_id, endpoint=ENDPOINT), urls


@pytest.fixture
async def system() -> AsyncIterator[RefreshSystem]:
    clock = FakeClock()
    options = {"api_key": "key", "submitted_for": 0, "processing_for": 0, "seed": 7, "fresh_urls": 1}
    http_client = HttpClient(user_agent="kling-receiver/test")
    async with serve(Options.parse(options | {"results_for": "10m"}), clock=clock) as simulator:
        kling = a_client(simulator.url, http_client, clock)
        yield RefreshSystem(kling=kling, simulator=simulator, clock=clock, refresher=ResultRefresher(kling))
        await http_client.aclose()


def a_client(url: str, http_client: HttpClient, clock: FakeClock, *, key: str = "key") -> KlingClient:
    settings = KlingSettings.model_construct(
        base_url=url, api_key=Secret(key), access_key=None, secret_key=None, timeout=timedelta(seconds=5)
    )
    return KlingClient(settings, http_client=http_client, clock=clock)


async def statuses(urls: list[str]) -> list[int]:
    async with plain_http() as client:
        return [(await client.get(url)).status_code for url in urls]


async def test_expired_urls_are_replaced_in_the_same_order(system: RefreshSystem) -> None:
    task, old = await system.succeed_task()
    system.clock.advance(2 * LIFETIME)

    fresh = list(result_urls(await system.refresher.refresh(task)))

    assert await statuses(old) == [403, 403]
    assert await statuses(fresh) == [200, 200]
    assert [url.partition("?")[0] for url in fresh] == [url.partition("?")[0] for url in old]


async def test_a_task_that_kling_does_not_know_has_no_result(system: RefreshSystem) -> None:
    assert await system.refresher.refresh(a_task(kling_id="867283741759111202", endpoint=ENDPOINT)) == {}


@pytest.mark.parametrize(
    "unaskable",
    [{"endpoint": None, "kling_id": "1"}, {"kling_id": None, "external_task_id": None, "origin": Origin.MINTED}],
)
async def test_an_unpollable_task_has_no_result(system: RefreshSystem, unaskable: dict[str, Any]) -> None:
    assert await system.refresher.refresh(a_task(**{"endpoint": ENDPOINT} | unaskable)) == {}
    assert system.simulator.counts["queries"] == 0


@pytest.mark.parametrize(("where", "key"), [("", "revoked"), ("http://127.0.0.1:1", "key")])
async def test_a_rejected_key_or_an_outage_raises_no_response(system: RefreshSystem, where: str, key: str) -> None:
    task, _ = await system.succeed_task()
    http_client = HttpClient(user_agent="kling-receiver/test")
    try:
        with pytest.raises(NoResponse):
            await ResultRefresher(a_client(where or system.simulator.url, http_client, system.clock, key=key)).refresh(
                task
            )
    finally:
        await http_client.aclose()
