"""The console behind a balancer that gives each connection to the next node."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from urllib.parse import urlencode

import httpx2 as httpx
import pytest
import pytest_asyncio
from harness.cluster import TOKEN, Cluster, a_cluster
from harness.http_client import plain_http
from harness.postgres import PostgresServer
from harness.running_service import a_config, a_kling, a_sink, a_webhook_route
from harness.waiting import wait_until

from receiver.domain.secret import Secret
from receiver.web.console.sessions import IDLE_LIMIT
from receiver.web.probes import digest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> Iterator[str]:
    name = asyncio.run(postgres.create_database())
    yield postgres.url(name)
    asyncio.run(postgres.drop_database(name))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory, url: str) -> AsyncIterator[Cluster]:
    async with a_kling() as kling, a_sink() as sink:
        slots = "[kling.slots]\nimage = 7\n"
        config = a_config(kling.url, more=slots + a_webhook_route(sink, extra='on = ["succeed"]'))
        async with a_cluster(tmp_path_factory.mktemp("nodes"), url, config) as cluster:
            yield cluster


class Browser:
    """A browser at the address of the balancer, or of one node. Each request has a connection of its own."""

    def __init__(self, base: str, cookie: str = "") -> None:
        self.base = base
        self.cookie = cookie

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self._send("GET", path, headers, b"")

    async def post(self, path: str, fields: dict[str, str]) -> httpx.Response:
        sent = {"origin": self.base, "sec-fetch-site": "same-origin"}
        sent["content-type"] = "application/x-www-form-urlencoded"
        return await self._send("POST", path, sent, urlencode(fields).encode())

    async def log_in(self) -> None:
        answer = await self.post("/console/login", {"token": TOKEN, "name": "anna"})
        assert answer.status_code == 303, answer.text
        self.cookie = answer.headers["set-cookie"].partition(";")[0]

    async def _send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        async with plain_http(base_url=self.base) as client:
            return await client.request(method, path, headers={**headers, "cookie": self.cookie}, content=body)


async def statuses(browser: Browser, path: str, cluster: Cluster) -> list[int]:
    """Get a page once of each node, through the balancer."""
    return [(await browser.get(path)).status_code for _ in cluster.nodes]


async def test_a_login_holds_on_every_node_until_the_logout(cluster: Cluster) -> None:
    browser = Browser(cluster.admin)
    assert await statuses(browser, "/console", cluster) == [303] * 3

    await browser.log_in()
    for path in ("/console", "/console/tasks", "/console/routes"):
        assert await statuses(browser, path, cluster) == [200] * 3
    assert (await browser.post("/console/logout", {})).status_code == 303

    assert await statuses(browser, "/console", cluster) == [303] * 3


async def test_every_node_shows_the_configured_slots(cluster: Cluster) -> None:
    browser = Browser(cluster.admin)
    await browser.log_in()
    pages = [(await browser.get("/console")).text for _ in cluster.nodes]

    shown = [re.findall(r"image.*?of 7", page.partition('id="slots-title"')[2], re.DOTALL) for page in pages]
    assert [len(each) for each in shown] == [1, 1, 1]


async def test_any_node_answers_the_probe_of_another(cluster: Cluster) -> None:
    for _ in cluster.nodes:
        probe = (await cluster.post("/api/probes", b"{}")).json()
        async with plain_http(base_url=cluster.public) as client:
            answer = await client.post(f"/callbacks/{probe['token']}", content=b"{}")
        assert answer.status_code == 200
        assert answer.json()["probe"]["body"] == digest(Secret(probe["secret"]), b"{}")


def _notices(answer: httpx.Response) -> list[str]:
    return re.findall(r'class="notice"[^>]*>([^<]+)', answer.text)


async def test_the_notice_of_an_action_is_shown_once_on_any_node(cluster: Cluster) -> None:
    browser = Browser(cluster.admin)
    await browser.log_in()

    for verb in ("hold", "release"):
        acted = await browser.post(f"/console/routes/hook/{verb}", {"why": "a test"})
        assert acted.status_code == 303, acted.text
        told = [_notices(await browser.get(acted.headers["location"])) for _ in cluster.nodes]
        assert [len(notices) for notices in told] == [1, 0, 0]


async def test_a_login_link_is_redeemed_once_by_two_nodes(cluster: Cluster) -> None:
    for _ in range(5):
        answer = await cluster.post("/api/console/links", b"{}")
        path = answer.json()["path"]

        answers = await asyncio.gather(*(Browser(node.admin).get(path) for node in cluster.nodes))

        assert sorted(each.status_code for each in answers) == [303, 401, 401]


async def test_a_session_that_expired_is_gone_on_every_node(cluster: Cluster) -> None:
    browser = Browser(cluster.admin)
    await browser.log_in()
    await cluster.fetch("UPDATE console_sessions SET expires_at = micros_now()")

    assert await statuses(browser, "/console", cluster) == [303] * 3


async def test_a_visit_is_written_at_most_once_a_minute(cluster: Cluster) -> None:
    await cluster.fetch("DELETE FROM console_sessions")
    browser = Browser(cluster.admin)
    await browser.log_in()
    ages = "UPDATE console_sessions SET expires_at = expires_at - $1::bigint RETURNING expires_at"
    times = "SELECT max(expires_at) FROM console_sessions"

    [(before,)] = await cluster.fetch(ages, 30 * 10**6)
    assert await statuses(browser, "/console", cluster) == [200] * 3
    assert await cluster.fetch(times) == [(before,)]
    [(before,)] = await cluster.fetch(ages, 90 * 10**6)
    assert await statuses(browser, "/console", cluster) == [200] * 3
    [(after, left)] = await cluster.fetch(
        "SELECT max(expires_at), max(expires_at) - micros_now() FROM console_sessions"
    )

    assert after > before
    assert 0 < left <= IDLE_LIMIT / timedelta(microseconds=1)


async def test_the_database_contains_no_secret_of_a_browser(cluster: Cluster) -> None:
    browser = Browser(cluster.admin)
    await browser.log_in()
    link = (await cluster.post("/api/console/links", b"{}")).json()["path"].rpartition("/")[2]
    session = browser.cookie.partition("=")[2]

    rows = await cluster.fetch("SELECT s::text FROM console_sessions s UNION ALL SELECT l::text FROM console_links l")

    assert rows
    for secret in (link, session, TOKEN):
        assert not [row for row in rows if secret in row[0] or secret.encode().hex() in row[0]]


async def test_a_logout_on_another_node_ends_the_stream_of_an_open_page(cluster: Cluster) -> None:
    browser = Browser(cluster.admin)
    await browser.log_in()
    seen = bytearray()

    async def follow() -> None:
        async with (
            plain_http(base_url=browser.base, timeout=None) as client,
            client.stream("GET", "/console/live", headers={"cookie": browser.cookie}) as answer,
        ):
            async for chunk in answer.aiter_bytes():
                seen.extend(chunk)

    following = asyncio.create_task(follow())
    try:
        await wait_until(lambda: b"console-connected" in seen, seconds=30)
        await browser.post("/console/logout", {})  # the next node
        await wait_until(following.done, seconds=30)
    finally:
        following.cancel()
